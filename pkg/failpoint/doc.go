// Package failpoint lets a test end, fail or slow down a process at a named step.
//
// A step is named package/function/step and stands where a crash would hurt: between a
// record and what it promises, around a rename, a fork, a call to another process. Names()
// lists all of them; a test checks that the list and the code agree, and integration/crash
// goes through it.
//
// Without STRATA_FAILPOINTS in the environment Hit is one check of a variable that is set once. The package
// knows nothing of what it interrupts. Start with Hit.
package failpoint
