package driver

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/drover-ml/drover/task-driver/task"
)

// account is a user of the machine as whom a task runs.
type account struct {
	name, home string
	cred       task.Credential
}

// findAccount looks up a user by name or number. It returns nil for the user
// that this process has.
func findAccount(name string) (*account, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		byID, iderr := user.LookupId(name)
		if iderr != nil {
			return nil, fmt.Errorf("user %q: there is none on this node", name)
		}
		u = byID
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %q: ID %q: %w", name, u.Uid, err)
	}
	if int(uid) == os.Geteuid() {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("user %q: the driver is not root and can run tasks only as its own user", name)
	}
	a := &account{name: u.Username, home: u.HomeDir, cred: task.Credential{UID: uint32(uid)}}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("user %q: finding its groups: %w", name, err)
	}
	for _, g := range append([]string{u.Gid}, groups...) {
		gid, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %q: group ID %q: %w", name, g, err)
		}
		a.cred.Groups = append(a.cred.Groups, uint32(gid))
	}
	a.cred.GID = a.cred.Groups[0]
	return a, nil
}

// setHome replaces the home of the agent's user, unless the job set another.
func (a *account) setHome(env, agent map[string]string) {
	env["USER"], env["LOGNAME"] = a.name, a.name
	if env["HOME"] == agent["HOME"] {
		env["HOME"] = a.home
	}
}

// credential is nil for the driver's own user.
func (a *account) credential() *task.Credential {
	if a == nil {
		return nil
	}
	return &a.cred
}
