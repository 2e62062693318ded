// Package mpstest is a stand-in for NVIDIA's MPS control program, for tests on
// machines without it. It is the test binary itself: a TestMain calls Main
// first, and Program makes a script that runs it.
package mpstest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// variable says how the stand-in behaves; a test binary that has it is one.
const variable = "FAKE_MPS"

// The ways of the stand-in.
const (
	Honest       = "honest"
	NoLimits     = "no-limits"     // takes a memory limit and does not keep it
	Crashes      = "crashes"       // ends right after its start
	StrangeWords = "strange-words" // answers in another format
	Hangs        = "hangs"         // is there and answers nothing
)

// Main ends the process as the control program would, if it is to be that.
func Main() {
	if mode := os.Getenv(variable); mode != "" {
		os.Exit(fake(mode))
	}
}

// Name is that of the script.
const Name = "nvidia-cuda-mps-control"

// Program writes the script, and returns its path. It is the only file of its
// folder, so that the folder can be in PATH.
func Program(t testing.TB, mode string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), Name)
	// The race detector waits a second when a process ends.
	content := fmt.Sprintf("#!/bin/sh\nexport GORACE=atexit_sleep_ms=0 %s=%s\nexec %s \"$@\"\n", variable, mode, self)
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

func fake(mode string) int {
	pipe := os.Getenv("CUDA_MPS_PIPE_DIRECTORY")
	socket := filepath.Join(pipe, "control")
	if len(os.Args) > 1 && os.Args[1] == "-f" {
		return fakeDaemon(mode, pipe, socket)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println("Cannot find MPS control daemon process")
		return 0 // what the exit status is must not matter
	}
	defer conn.Close()
	command, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return 1
	}
	fmt.Fprint(conn, command)
	answer, _ := io.ReadAll(conn) // the daemon may end with the answer
	fmt.Print(string(answer))
	return 0
}

// fakeDaemon serves commands until it is told to quit. What it saw of its
// environment and its process ID are files in the pipe folder; its clients are
// the processes in the file "clients".
func fakeDaemon(mode, pipe, socket string) int {
	if mode == Crashes {
		fmt.Fprintln(os.Stderr, "[2026-01-02 15:04:05.123 Control  4711] Failed to create an MPS context")
		return 1
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		conn.Close()
		fmt.Fprintln(os.Stderr, "An instance of this daemon is already running")
		return 1
	}
	_ = os.Remove(socket) // of a daemon that crashed
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(pipe, name), []byte(content), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	write("devices", os.Getenv("CUDA_VISIBLE_DEVICES"))
	write("environment", strings.Join(os.Environ(), "\n"))
	write("pid", strconv.Itoa(os.Getpid()))
	d := fakeState{mode: mode, pipe: pipe, threads: "100.0", memory: "0"}
	if percent := os.Getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"); percent != "" {
		d.threads = percent + ".0"
	}
	if limit, ok := strings.CutPrefix(os.Getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"), "0="); ok && mode != NoLimits {
		d.memory = limit
	}
	write("limits", d.threads+" "+d.memory)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 1
		}
		if mode == Hangs {
			_, _ = io.Copy(io.Discard, conn) // until the other side gives up
			conn.Close()
			continue
		}
		command, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil {
			answer, quit := d.do(strings.Fields(command))
			fmt.Fprint(conn, answer)
			if quit {
				_ = os.Remove(socket)
				conn.Close()
				return 0
			}
		}
		conn.Close()
	}
}

type fakeState struct {
	mode, pipe, threads, memory string
}

func (d *fakeState) do(command []string) (answer string, quit bool) {
	if len(command) == 0 {
		return "", false
	}
	clients, _ := os.ReadFile(filepath.Join(d.pipe, "clients")) // none without the file
	switch command[0] {
	case "set_default_active_thread_percentage":
		d.threads = command[1] + ".0"
	case "get_default_active_thread_percentage":
		return d.threads + "\n", false
	case "set_default_device_pinned_mem_limit":
		if d.mode != NoLimits {
			d.memory = command[2]
		}
	case "get_default_device_pinned_mem_limit":
		if d.mode == StrangeWords {
			return "limit: some\n", false
		}
		return d.memory + "\n", false
	case "get_server_list":
		if len(clients) > 0 {
			return "4711\n", false
		}
	case "get_client_list":
		return string(clients), false
	case "quit":
		return "", true
	default:
		return "Unknown command\n", false
	}
	return "", false
}
