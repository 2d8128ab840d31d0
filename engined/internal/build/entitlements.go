package build

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"strata/engined/internal/build/dockerfile"
	"strata/engined/internal/networks"
)

// checkEntitlements refuses what the operator denies.
func (s *Service) checkEntitlements(r *Request) error {
	wanted := r.Entitlements
	if r.Network == networks.NetworkHost {
		wanted = append(slices.Clone(wanted), EntitlementHostNetwork)
	}
	for _, e := range wanted {
		if slices.Contains(s.cfg.Denied, e) {
			return fmt.Errorf("granting entitlement %s is not allowed by build daemon configuration: the engine's wants %s: %w", e, setting(e), errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// setting is what allows an entitlement in the engine's configuration.
func setting(e string) string {
	return fmt.Sprintf(`"builder": {"entitlements": {%q: true}}`, strings.ReplaceAll(e, ".", "-"))
}

// checkGranted refuses a command that does more than the client has granted.
func (b *builder) checkGranted(r *dockerfile.Run) error {
	if r.Insecure {
		if err := b.granted("RUN --security=insecure", EntitlementInsecure); err != nil {
			return err
		}
	}
	if r.Network == networks.NetworkHost && b.r.Network != networks.NetworkHost {
		return b.granted("RUN --network=host", EntitlementHostNetwork)
	}
	return nil
}

func (b *builder) granted(what, e string) error {
	if slices.Contains(b.r.Entitlements, e) {
		return nil
	}
	remedy := "build with --allow " + e
	if slices.Contains(b.s.cfg.Denied, e) {
		remedy += ", and with " + setting(e) + " in the engine's configuration"
	}
	return fmt.Errorf("%s: %s is not allowed: %s: %w", what, e, remedy, errdefs.ErrPermissionDenied)
}
