package gang

import "time"

// Version is the version of the stored records.
const Version = 1

// Member is a start of one rank. It is stored under "rank-<rank>" by the member
// itself, for example:
//
//	{"version":1,"rank":2,"size":4,"alloc_id":"9b66…","task_id":"9b66…/main/32b9…",
//	 "node_name":"gpu-03","machine":"9c2f…","address":"10.0.0.7","port":23017,
//	 "resumed_from":120,"answer":"K3J…"}
type Member struct {
	Version  int    `json:"version"`
	Rank     int    `json:"rank"`
	Size     int    `json:"size"`
	AllocID  string `json:"alloc_id"`
	TaskID   string `json:"task_id"`
	NodeName string `json:"node_name"`
	// Machine is the same for members, of whatever nodes, that reach each other
	// by the loopback address: the ID of the kernel's boot.
	Machine string `json:"machine"`
	// Address and Port are where this member can be reached, once its command
	// listens there.
	Address string `json:"address"`
	Port    int    `json:"port"`
	// ResumedFrom is the step of the checkpoint that its command goes on from,
	// nil for a start from the beginning.
	ResumedFrom *int64 `json:"resumed_from,omitempty"`
	// Answer is the last call that it has answered.
	Answer string `json:"answer,omitempty"`
}

// call is how rank 0 asks who is there, stored under "call". Each one has
// another ID.
type call struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
}

// verdict is stored under "verdict", once: who starts, or why nobody does.
type verdict struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"` // by the clock of the node that decided
	Members []Member  `json:"members,omitempty"`
	Failure string    `json:"failure,omitempty"`
}

// broken is the first failure after a start, stored under "broken", once.
type broken struct {
	Version int       `json:"version"`
	Time    time.Time `json:"time"`
	Rank    int       `json:"rank"`
	AllocID string    `json:"alloc_id"`
	Reason  string    `json:"reason"`
}
