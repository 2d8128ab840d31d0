package networks

import (
	"context"
	"fmt"
	"testing"

	"strata/pkg/identifiers"
)

// BenchmarkJoin measures the whole network of one container, made and taken away.
func BenchmarkJoin(b *testing.B) {
	for _, ports := range []int{0, 1, 206} {
		b.Run(fmt.Sprintf("ports=%d", ports), func(b *testing.B) {
			l := newLab(b)
			var ids []string
			for b.Loop() {
				r := Request{ContainerID: identifiers.New(), ContainerName: "c", Hostname: "c", Dir: b.TempDir()}
				for i := range ports {
					r.Ports = append(r.Ports, PortMapping{Proto: "tcp", ContainerPort: uint16(1 + i)})
				}
				if _, err := l.Join(context.Background(), r); err != nil {
					b.Fatal(err)
				}
				ids = append(ids, r.ContainerID)
				b.StopTimer()
				if len(ids) == 10 {
					for _, id := range ids {
						if err := l.Leave(context.Background(), id); err != nil {
							b.Fatal(err)
						}
					}
					ids = nil
				}
				b.StartTimer()
			}
		})
	}
}
