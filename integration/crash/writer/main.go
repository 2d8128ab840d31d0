// Writer prints a numbered line each millisecond and measures how long each write takes.
// At SIGTERM it prints the 99th percentile and the maximum, and ends with 0.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case <-end:
			slices.Sort(took)
			fmt.Printf("writes %d p99 %s max %s\n", len(took), took[len(took)*99/100], took[len(took)-1])
			return
		case <-tick.C:
		}
		start := time.Now()
		if _, err := fmt.Printf("line %d\n", i); err != nil {
			os.Exit(1)
		}
		took = append(took, time.Since(start))
	}
}
