package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// probe carries one check out.
type probe struct {
	check   api.ServiceCheck
	address string
	port    int
	replace func(string) string
}

// run probes once. code is an HTTP status, 0 if there is none.
func (p *probe) run(ctx context.Context) (code int, output, status string) {
	timeout := p.check.Timeout
	if timeout <= 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	hostPort := net.JoinHostPort(p.address, strconv.Itoa(p.port))
	if p.check.Type == "tcp" {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", hostPort)
		if err != nil {
			return 0, err.Error(), "failure"
		}
		conn.Close()
		return 0, "nomad: tcp ok", "success"
	}
	return p.http(ctx, hostPort)
}

func (p *probe) http(ctx context.Context, hostPort string) (code int, output, status string) {
	scheme, method := "http", http.MethodGet
	if p.check.Protocol != "" {
		scheme = p.check.Protocol
	}
	if p.check.Method != "" {
		method = p.check.Method
	}
	url := scheme + "://" + hostPort + "/" + strings.TrimPrefix(p.replace(p.check.Path), "/")
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(p.replace(p.check.Body)))
	if err != nil {
		return 0, err.Error(), "failure"
	}
	req.Header.Set("User-Agent", "Nomad Health Check")
	for k, values := range p.check.Header {
		for _, v := range values {
			req.Header.Add(k, p.replace(v))
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "nomad: " + err.Error(), "failure"
	}
	defer resp.Body.Close()
	const shown = 3 << 10
	body, _ := io.ReadAll(io.LimitReader(resp.Body, shown))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp.StatusCode, "nomad: http ok", "success"
	}
	return resp.StatusCode, fmt.Sprintf("nomad: http returned status %d: %s", resp.StatusCode, body), "failure"
}
