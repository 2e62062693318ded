package devcluster

import (
	"net"
	"net/http"
	"net/url"
)

// localOnly refuses what a web page in a browser on this machine could send:
// requests for another host name, and those that come from another origin.
// The API runs commands for whoever asks.
func localOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLocal(r.Host) {
			http.Error(w, "this development cluster answers only as localhost", http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || !isLocal(u.Host) {
				http.Error(w, "this development cluster does not answer pages of other sites", http.StatusForbidden)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

func isLocal(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
