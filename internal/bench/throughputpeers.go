package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"

	"github.com/drover-ml/drover/internal/lab"
)

const (
	slurmJobs  = 5_000
	slurmSlots = 64
	nomadJobs  = 200
	nomadWide  = 32
)

// slurmConf is a controller and one node on this machine, with as many cores as
// there are slots, tuned for many short jobs: it schedules as soon as it can.
const slurmConf = `ClusterName=bench
SlurmctldHost=%[1]s(127.0.0.1)
SlurmctldPort=%[2]d
SlurmdPort=%[3]d
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation=%[4]s/state
SlurmdSpoolDir=%[4]s/spool
SlurmctldPidFile=%[4]s/slurmctld.pid
SlurmdPidFile=%[4]s/slurmd.pid
SlurmctldLogFile=%[4]s/slurmctld.log
SlurmdLogFile=%[4]s/slurmd.log
SlurmctldDebug=error
SlurmdDebug=error
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,default_queue_depth=10000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MaxArraySize=200001
MaxJobCount=200000
NodeName=%[1]s NodeAddr=127.0.0.1 CPUs=%[5]d Boards=1 SocketsPerBoard=1 CoresPerSocket=%[5]d ThreadsPerCore=1 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
`

// slurmThroughput runs an array of jobs through a Slurm of its own.
func slurmThroughput(ctx context.Context) ([]row, error) {
	name := fmt.Sprintf("%d jobs at once, on %d slots", slurmJobs, slurmSlots)
	for _, command := range []string{"slurmctld", "slurmd", "sbatch", "sdiag", "sinfo"} {
		if _, err := exec.LookPath(command); err != nil || os.Geteuid() != 0 {
			return []row{{Case: name, Subject: "slurm", Note: "skipped: needs root and " + command}}, nil
		}
	}
	var rows []row
	err := inLab(func(t lab.T) { rows = slurmOn(ctx, t, name) })
	if err != nil {
		err = fmt.Errorf("on Slurm: %w", err)
	}
	return rows, err
}

func slurmOn(ctx context.Context, t lab.T, name string) []row {
	dir, err := diskFolder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	for _, sub := range []string{"state", "spool"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "slurm.conf")
	text := fmt.Sprintf(slurmConf, host, lab.FreePort(t), lab.FreePort(t), dir, slurmSlots)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "SLURM_CONF="+conf)
		return cmd
	}
	daemon := func(name string) *exec.Cmd {
		cmd := command(name, "-D")
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	stop := func(cmd *exec.Cmd) {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	controller := daemon("slurmctld")
	t.Cleanup(func() { stop(controller) })
	node := daemon("slurmd")
	t.Cleanup(func() { stop(node) })
	lab.Eventually(t, "Slurm's node is idle", func() string {
		out, err := command("sinfo", "-h", "-o", "%T").CombinedOutput()
		if state := strings.TrimSpace(string(out)); err != nil || state != "idle" {
			return fmt.Sprintf("it is %q, %v", state, err)
		}
		return ""
	})
	start := time.Now()
	out, err := command("sbatch", fmt.Sprintf("--array=1-%d", slurmJobs), "-o", "/dev/null", "-n1", "--wrap", "true").CombinedOutput()
	if err != nil {
		t.Fatalf("sbatch: %v: %s", err, out)
	}
	submitted := time.Since(start)
	var diag string
	for deadline := start.Add(10 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := command("sdiag").CombinedOutput()
		if err != nil {
			t.Fatalf("sdiag: %v: %s", err, out)
		}
		if diag = string(out); sdiag(t, diag, "Jobs completed", 0) >= slurmJobs {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Slurm is not done after 10 minutes: %s", diag)
		}
	}
	took := time.Since(start)
	peak, err := peakMiB(controller.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stop(node)
	stop(controller)
	usage := controller.ProcessState
	single := func(subject, unit string, v float64) row {
		return row{Case: name, Subject: subject, Unit: unit, Value: v, Min: v, Max: v}
	}
	done := single("slurm, until all are done", "jobs/s", slurmJobs/took.Seconds())
	done.Note = "runs /bin/true in each, drover runs nothing"
	return []row{
		done,
		single("slurm, sbatch of the array", "ms", submitted.Seconds()*1e3),
		single("slurmctld, processor time a job", "µs", (usage.UserTime()+usage.SystemTime()).Seconds()/slurmJobs*1e6),
		single("slurmctld, peak memory", "MiB", peak),
		single("slurmctld, mean main cycle", "µs", sdiag(t, diag, "Mean cycle", 0)),
		single("slurmctld, longest main cycle", "µs", sdiag(t, diag, "Max cycle", 0)),
	}
}

// sdiag is the nth figure of a name in what sdiag tells.
func sdiag(t lab.T, text, name string, nth int) float64 {
	found := regexp.MustCompile(regexp.QuoteMeta(name)+`:\s+(\d+)`).FindAllStringSubmatch(text, -1)
	if len(found) <= nth {
		t.Fatalf("sdiag tells no %q: %s", name, text)
	}
	v, err := strconv.ParseFloat(found[nth][1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// nomadThroughput registers jobs with a Nomad of its own.
func nomadThroughput(ctx context.Context) ([]row, error) {
	name := fmt.Sprintf("%d jobs, %d registering", nomadJobs, nomadWide)
	nomad, err := exec.LookPath("nomad")
	if err != nil || os.Geteuid() != 0 {
		return []row{{Case: name, Subject: "nomad", Note: "skipped: needs root and a nomad binary on the PATH"}}, nil
	}
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	var rows []row
	err = inLab(func(t lab.T) { rows = nomadOn(ctx, t, lab.NewNomad(t, nomad, bin).Client(), name) })
	if err != nil {
		err = fmt.Errorf("on Nomad: %w", err)
	}
	return rows, err
}

func nomadOn(ctx context.Context, t lab.T, client *api.Client, name string) []row {
	start := time.Now()
	asked := make([]time.Time, nomadJobs)
	group, ctx := errgroup.WithContext(ctx)
	for w := range nomadWide {
		group.Go(func() error {
			for i := w; i < nomadJobs; i += nomadWide {
				asked[i] = time.Now()
				if err := register(ctx, client, fmt.Sprintf("noop-%04d", i), []string{"/bin/true"}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	accepted := time.Since(start)
	var placed []float64
	var last time.Time
	for done := 0; done < nomadJobs; time.Sleep(200 * time.Millisecond) {
		allocs, _, err := client.Allocations().List(nil)
		if err != nil {
			t.Fatal(err)
		}
		done, placed, last = 0, placed[:0], start
		for _, a := range allocs {
			var i int
			if _, err := fmt.Sscanf(a.JobID, "noop-%04d", &i); err != nil {
				continue
			}
			created := time.Unix(0, a.CreateTime)
			placed = append(placed, created.Sub(asked[i]).Seconds()*1e3)
			if created.After(last) {
				last = created
			}
			switch a.ClientStatus {
			case api.AllocClientStatusComplete:
				done++
			case api.AllocClientStatusFailed, api.AllocClientStatusLost:
				t.Fatalf("job %s: its allocation is %s", a.JobID, a.ClientStatus)
			}
		}
		if time.Since(start) > 5*time.Minute {
			t.Fatalf("Nomad is not done after 5 minutes: %d of %d jobs are", done, nomadJobs)
		}
	}
	took := time.Since(start)
	slices.Sort(placed)
	single := func(subject, unit string, v float64) row {
		return row{Case: name, Subject: subject, Unit: unit, Value: v, Min: v, Max: v}
	}
	return []row{
		single("nomad, registered", "jobs/s", nomadJobs/accepted.Seconds()),
		single("nomad, placed", "jobs/s", nomadJobs/last.Sub(start).Seconds()),
		single("nomad, until all are complete", "jobs/s", nomadJobs/took.Seconds()),
		single("nomad, from registering to placed, p50", "ms", placed[len(placed)/2]),
		single("nomad, from registering to placed, p99", "ms", placed[len(placed)*99/100]),
	}
}
