package containers

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"strata/engined/internal/store"
)

// The words of made-up names: a mood and somebody who looked closely at rocks, seas,
// skies, numbers or machines.
var (
	adjectives = []string{
		"amber", "ample", "ardent", "brave", "bright", "brisk", "calm", "candid", "clear", "clever", "crisp", "daring", "deft", "eager",
		"earnest", "fair", "fleet", "fond", "frank", "gentle", "glad", "golden", "grand", "hardy", "hearty", "humble", "keen", "kind",
		"lively", "lucid", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite",
		"proud", "quick", "quiet", "ready", "robust", "serene", "sharp", "silent", "sincere", "sleek", "smooth", "snug", "solid",
		"spry", "steady", "stout", "sturdy", "subtle", "sunny", "swift", "tender", "tidy", "tranquil", "upbeat", "vivid", "warm",
		"wise", "witty", "zesty",
	}
	surnames = []string{
		"agassiz", "agricola", "anning", "avicenna", "backus", "banach", "bascom", "boole", "borg", "bragg", "cantor", "chatelet",
		"church", "cuvier", "dana", "dijkstra", "drake", "eckert", "eratosthenes", "floyd", "forbes", "galois", "geikie", "germain",
		"godel", "hamming", "hess", "hilbert", "holmes", "hooke", "hutton", "iverson", "jacobi", "kay", "khayyam", "kleene",
		"knuth", "lamarck", "lehmann", "liskov", "lyell", "marsh", "milner", "mohs", "murchison", "naur", "nygaard", "ostrom",
		"perlis", "playfair", "rossi", "sedgwick", "shen", "smith", "steno", "strachey", "suess", "tharp", "theophrastus", "turner",
		"wegener", "werner", "wilkes", "wirth", "zhang", "zuse",
	}
)

// nameContainer reserves the definition's name, or makes one up.
func (s *Service) nameContainer(d *store.Definition) error {
	if d.Name != "" {
		return s.reserve(d.Name, d.ID)
	}
	for try := range 100 {
		name := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))] //nolint:gosec // no secret
		if try >= 3 {
			name += fmt.Sprint(rand.IntN(10000)) //nolint:gosec // no secret
		}
		err := s.reserve(name, d.ID)
		if err == nil {
			d.Name = name
			return nil
		}
		var taken *store.NameTaken
		if !errors.As(err, &taken) {
			return err
		}
	}
	d.Name = d.ID[:12]
	return s.reserve(d.Name, d.ID)
}
