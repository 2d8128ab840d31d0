// Package filters is the filter language of containerd's lists and subscriptions:
//
//	filters   = filter [ filter ... ]            any of them matches (a list of strings)
//	filter    = selector { "," selector }        all of them match
//	selector  = fieldpath [ operator value ]     without operator: the field is there
//	operator  = "==" | "!=" | "~="               "~=" matches a regular expression
//	fieldpath = field { "." field }
//	field     = name | quoted
//	value     = word | quoted | "/re/" | "|re|"  the latter two after "~=" only
//
// What the fields are is the business of the [Adaptor]; the package refuses to know.
// Start reading at [ParseAll].
package filters
