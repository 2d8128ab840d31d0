package cgroups

import "math"

// weightCurve is the middle of CPUWeight, for 2 < shares < 262144.
func weightCurve(shares uint64) uint64 {
	l := math.Log2(float64(shares))
	exponent := (l*l+125*l)/612.0 - 7.0/34.0
	return uint64(math.Ceil(math.Pow(10, exponent)))
}
