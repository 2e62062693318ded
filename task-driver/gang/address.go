package gang

import (
	"fmt"
	"net"
)

const loopback = "127.0.0.1"

// Listen chooses an address and a port of this node for a member whose job has
// none. The port is the member's until the listener is closed, which is to be
// just before its command starts.
func Listen() (address string, port int, l net.Listener, err error) {
	l, err = net.Listen("tcp", ":0")
	if err != nil {
		return "", 0, nil, fmt.Errorf("choosing a port for the gang to meet at: %w", err)
	}
	return outward(), l.Addr().(*net.TCPAddr).Port, l, nil
}

// outward is this node's address on the way to others, the loopback address if
// there is no way.
func outward() string {
	// Nothing is sent: connecting a datagram socket only chooses the route. The
	// address is one of those that are reserved for documentation.
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return loopback
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}
