package ocirun

import (
	"context"

	"github.com/containerd/errdefs"
)

func (a *app) update(args []string) error                      { return errdefs.ErrNotImplemented }
func (a *app) spec(args []string) error                        { return errdefs.ErrNotImplemented }
func (a *app) features(args []string) error                    { return errdefs.ErrNotImplemented }
func (a *app) events(ctx context.Context, args []string) error { return errdefs.ErrNotImplemented }
