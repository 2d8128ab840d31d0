package console

import (
	"net"
	"testing"
	"time"

	"strata/pkg/linux/tty"
	"strata/pkg/linux/unixsock"
)

func TestRawModeIsPutBack(t *testing.T) {
	master, slave, err := tty.OpenPair()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	before, _ := tty.GetState(slave)
	restore, err := MakeRaw(slave)
	if err != nil {
		t.Fatal(err)
	}
	if raw, _ := tty.GetState(slave); raw == before {
		t.Error("raw mode changed nothing")
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if after, _ := tty.GetState(slave); after != before {
		t.Error("settings differ after restore")
	}
}

func TestMasterArrivesOverTheSocket(t *testing.T) {
	s, err := NewSocket(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	master, slave, err := tty.OpenPair()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.Path(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := unixsock.SendFile(conn, master); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = master.Close()

	got, err := s.Receive(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if err := Resize(got, Size{Width: 91, Height: 17}); err != nil {
		t.Fatal(err)
	}
	if size, err := GetSize(slave); err != nil || size != (Size{Width: 91, Height: 17}) {
		t.Errorf("size of the slave = %+v, %v", size, err)
	}
}

func TestReceiveEndsWhenNobodySends(t *testing.T) {
	s, err := NewSocket(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := s.Receive(10 * time.Millisecond); err == nil {
		t.Errorf("Receive = %v, want an error", f.Name())
	}
}
