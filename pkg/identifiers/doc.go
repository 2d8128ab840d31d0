// Package identifiers makes and checks the ids and names of the stack.
package identifiers
