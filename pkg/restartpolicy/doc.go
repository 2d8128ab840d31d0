// Package restartpolicy decides whether an exited container starts again, and when.
//
// Both daemons call [Policy.Restart] with the same facts and so agree without talking:
// supervisord acts on the answer, engined shows it. The policy travels as labels of the
// supervisor's container record, with containerd's names, so that a stock containerd
// with its restart plugin acts on them too.
package restartpolicy
