package http1

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// A client that has sent its next request is there; one that has closed its
// side is not, once what it sent has been read.
func TestLeft(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	c, err := newConn(&Server{}, accepted.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.tcp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// arrived waits until there is something to read, if only the end.
	arrived := func() {
		t.Helper()
		err := c.raw.Read(func(fd uintptr) bool {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			return err != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if c.left() {
		t.Error("a silent client has left")
	}
	if _, err := io.WriteString(client, "x"); err != nil {
		t.Fatal(err)
	}
	arrived()
	if c.left() {
		t.Error("a client that sends has left")
	}
	if _, err := c.r.ReadByte(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	arrived()
	if !c.left() {
		t.Error("a client that has closed is still there")
	}
}
