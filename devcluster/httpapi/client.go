package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/nomad/api"

	"github.com/drover-ml/drover/devcluster/control"
	"github.com/drover-ml/drover/devcluster/state"
)

// clientRoutes is the part of the API that a node answers about what it runs.
func (s *Server) clientRoutes() {
	s.ofAlloc("GET /v1/client/allocation/{id}/stats", func(c NodeClient, id string, r *http.Request) (any, error) { return c.AllocStats(id) })
	s.ofAlloc("GET /v1/client/allocation/{id}/checks", func(c NodeClient, id string, r *http.Request) (any, error) { return c.AllocChecks(id) })
	for _, method := range []string{"GET", "PUT", "POST"} {
		s.ofAlloc(method+" /v1/client/allocation/{id}/gc", func(c NodeClient, id string, r *http.Request) (any, error) {
			return nil, c.CollectAlloc(id)
		})
	}
	for _, method := range []string{"PUT", "POST"} {
		s.ofAlloc(method+" /v1/client/allocation/{id}/restart", func(c NodeClient, id string, r *http.Request) (any, error) {
			var req struct {
				TaskName string
				AllTasks bool
			}
			if err := optionalBody(r, &req); err != nil {
				return nil, err
			}
			return struct{}{}, c.RestartAlloc(id, req.TaskName, req.AllTasks)
		})
		s.ofAlloc(method+" /v1/client/allocation/{id}/signal", func(c NodeClient, id string, r *http.Request) (any, error) {
			var req api.AllocSignalRequest
			if err := body(r, &req); err != nil {
				return nil, err
			}
			return struct{}{}, c.SignalAlloc(id, req.Task, req.Signal)
		})
	}
	s.mux.HandleFunc("GET /v1/client/allocation/{id}/exec", s.exec)
	s.mux.HandleFunc("GET /v1/client/stats", func(w http.ResponseWriter, r *http.Request) {
		c, err := s.nodeClient(r.URL.Query().Get("node_id"))
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.reply(w, r, c.HostStats())
	})
	s.fileRoutes()
}

// nodeClient finds a node; without an ID, the first one.
func (s *Server) nodeClient(id string) (NodeClient, error) {
	if id == "" {
		s.store.View(func(st state.Reader) {
			if nodes := st.Nodes(); len(nodes) > 0 {
				id = nodes[0].ID
			}
		})
	}
	if c := s.Clients.Client(id); c != nil {
		return c, nil
	}
	known := false
	s.store.View(func(st state.Reader) { known = st.Node(id) != nil })
	if !known {
		return nil, &control.Error{Status: http.StatusNotFound, Message: "Unknown node: " + id}
	}
	return nil, &control.Error{Status: http.StatusNotFound, Message: "No path to node"}
}

func (s *Server) clientOf(allocID string) (NodeClient, error) {
	var a *api.Allocation
	s.store.View(func(st state.Reader) { a = st.Alloc(allocID) })
	if a == nil {
		return nil, &control.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("Unknown allocation %q", allocID)}
	}
	return s.nodeClient(a.NodeID)
}

// ofAlloc registers a request that the node of an allocation answers.
func (s *Server) ofAlloc(pattern string, do func(c NodeClient, id string, r *http.Request) (any, error)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		c, err := s.clientOf(id)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		v, err := do(c, id, r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if v == nil {
			w.WriteHeader(http.StatusOK)
			return
		}
		s.reply(w, r, v)
	})
}

// exec runs a command beside a task, its streams over a web socket.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	c, err := s.clientOf(r.PathValue("id"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var command []string
	q := r.URL.Query()
	if err := json.Unmarshal([]byte(q.Get("command")), &command); err != nil || len(command) == 0 {
		s.fail(w, r, badRequest("command is not present"))
		return
	}
	if q.Get("task") == "" {
		s.fail(w, r, badRequest("must provide task name"))
		return
	}
	upgrader := websocket.Upgrader{ReadBufferSize: 2048, WriteBufferSize: 2048}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		s.Logger.Debug("opening a web socket", "error", err)
		return
	}
	defer ws.Close()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	stdin, toStdin := io.Pipe()
	resize := make(chan api.TerminalSize)
	go receiveInput(ctx, cancel, ws, toStdin, resize)
	out := &socketWriter{ws: ws}
	code, err := c.ExecAlloc(ctx, r.PathValue("id"), q.Get("task"), Exec{Command: command, TTY: flag(r, "tty"), Stdin: stdin,
		Stdout: out.stream(func(op *api.ExecStreamingIOOperation) api.ExecStreamingOutput {
			return api.ExecStreamingOutput{Stdout: op}
		}),
		Stderr: out.stream(func(op *api.ExecStreamingIOOperation) api.ExecStreamingOutput {
			return api.ExecStreamingOutput{Stderr: op}
		}),
		Resize: resize})
	stdin.Close()
	if err != nil {
		// 3000 and up are Nomad's codes for HTTP statuses.
		status := http.StatusInternalServerError
		var known interface{ HTTPStatus() int }
		if errors.As(err, &known) {
			status = known.HTTPStatus()
		}
		out.close(3000+status, err.Error())
		return
	}
	if out.send(api.ExecStreamingOutput{Exited: true, Result: &api.ExecStreamingExitResult{ExitCode: code}}) == nil {
		out.close(websocket.CloseNormalClosure, "")
	}
}

// receiveInput passes on what the client sends, until it is gone.
func receiveInput(ctx context.Context, cancel func(), ws *websocket.Conn, stdin *io.PipeWriter, resize chan<- api.TerminalSize) {
	defer cancel()
	defer stdin.Close()
	for {
		var in api.ExecStreamingInput
		if err := ws.ReadJSON(&in); err != nil {
			return
		}
		if in.TTYSize != nil {
			select {
			case resize <- *in.TTYSize:
			case <-ctx.Done():
				return
			}
		}
		if in.Stdin == nil {
			continue
		}
		if len(in.Stdin.Data) > 0 {
			if _, err := stdin.Write(in.Stdin.Data); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return
			}
		}
		if in.Stdin.Close {
			stdin.Close()
		}
	}
}

// socketWriter lets several streams write to one web socket.
type socketWriter struct {
	mu sync.Mutex
	ws *websocket.Conn
}

func (s *socketWriter) send(v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ws.WriteJSON(v)
}

func (s *socketWriter) close(code int, text string) {
	const maxText = 120 // a control frame has 125 bytes, two of them the code
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(code, text[:min(len(text), maxText)]))
}

func (s *socketWriter) stream(wrap func(*api.ExecStreamingIOOperation) api.ExecStreamingOutput) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		return len(p), s.send(wrap(&api.ExecStreamingIOOperation{Data: slices.Clone(p)}))
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
