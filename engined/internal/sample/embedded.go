//go:build sample

package sample

import _ "embed"

// program is cmd/hello, compressed with gzip.
//
//go:embed hello.gz
var program []byte
