package gc

import "strings"

// The types of nodes. A snapshot's type is TypeSnapshots followed by the name of its
// snapshotter. They are the resource types of leases on the wire.
const (
	TypeContent   = "content"
	TypeIngests   = "ingests"
	TypeLeases    = "leases"
	TypeSnapshots = "snapshots/"
)

// Labels that make edges and roots. A suffix ".x" or "/x" tells edges apart.
const (
	LabelRoot           = "containerd.io/gc.root"
	LabelExpire         = "containerd.io/gc.expire" // RFC 3339
	LabelFlat           = "containerd.io/gc.flat"
	labelContent        = "containerd.io/gc.ref.content"
	labelSnapshot       = "containerd.io/gc.ref.snapshot."
	labelBackContent    = "containerd.io/gc.bref.content"
	labelBackSnapshot   = "containerd.io/gc.bref.snapshot."
	labelReferencePrefx = "containerd.io/gc."
)

// Node is a thing that may be held. A flat node is held, but what its labels name is not.
type Node struct {
	Namespace string
	Type      string
	Key       string
	Flat      bool
}

// References calls emit for each node that the labels of a thing in namespace hold.
func References(namespace string, labels map[string]string, emit func(Node)) {
	edges(namespace, labels, labelContent, labelSnapshot, emit)
}

// BackReferences calls emit for each node that holds the thing with these labels.
func BackReferences(namespace string, labels map[string]string, emit func(Node)) {
	edges(namespace, labels, labelBackContent, labelBackSnapshot, emit)
}

func edges(namespace string, labels map[string]string, content, snapshot string, emit func(Node)) {
	for k, v := range labels {
		if !strings.HasPrefix(k, labelReferencePrefx) || v == "" {
			continue
		}
		if rest, ok := strings.CutPrefix(k, content); ok && (rest == "" || rest[0] == '.' || rest[0] == '/') {
			emit(Node{Namespace: namespace, Type: TypeContent, Key: v})
		}
		if rest, ok := strings.CutPrefix(k, snapshot); ok {
			name, _, _ := strings.Cut(rest, "/")
			name, _, _ = strings.Cut(name, ".")
			if name != "" {
				emit(Node{Namespace: namespace, Type: TypeSnapshots + name, Key: v})
			}
		}
	}
}

// Mark returns everything that can be reached from roots. refs calls emit for each node
// that n holds; its first error ends the marking.
func Mark(roots []Node, refs func(n Node, emit func(Node)) error) (map[Node]struct{}, error) {
	reached := make(map[Node]struct{}, len(roots)) // grey and black
	var grey []Node
	shade := func(n Node) {
		if _, ok := reached[n]; !ok {
			reached[n] = struct{}{}
			grey = append(grey, n)
		}
	}
	for _, n := range roots {
		shade(n)
	}
	for len(grey) > 0 {
		n := grey[len(grey)-1]
		grey = grey[:len(grey)-1]
		if err := refs(n, shade); err != nil {
			return nil, err
		}
	}
	return reached, nil
}
