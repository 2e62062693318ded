// Package nomadplugin holds a Nomad plugin SDK: see the packages below it.
//
//   - base, device, driver: what a plugin implements, and the agent's side of it
//   - schema: how a plugin describes its configuration, and reads it
//   - host: how to launch a plugin as a Nomad agent does
//   - conformance: checks that can be pointed at any plugin binary
package nomadplugin

// The wire's Go code is generated from proto/. The two protoc plugins are
// pinned in go.mod, buf here; running it twice changes nothing.
//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
