package mig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewLayout(t *testing.T) {
	m := modelOf(t, a100)
	for name, test := range map[string]struct {
		profiles string
		want     string // as it describes itself
		wantErr  string
	}{
		"none":                         {want: "MIG on without slices"},
		"two of a kind":                {profiles: "1g.5gb 3g.20gb 1g.5gb", want: "1g.5gb ×2, 3g.20gb"},
		"three thirds share":           {profiles: "1c.3g.20gb 1c.3g.20gb 1c.3g.20gb", want: "3g.20gb (compute 1+1+1)"},
		"sizes of one instance":        {profiles: "1c.3g.20gb 2c.3g.20gb", want: "3g.20gb (compute 2+1)"},
		"four thirds take two":         {profiles: "1c.3g.20gb 1c.3g.20gb 1c.3g.20gb 1c.3g.20gb", want: "3g.20gb (compute 1+1+1), 3g.20gb (compute 1)"},
		"all of it is a whole one":     {profiles: "3c.3g.20gb", want: "3g.20gb"},
		"whole and divided":            {profiles: "4g.20gb 1c.3g.20gb", want: "4g.20gb, 3g.20gb (compute 1)"},
		"with media extensions":        {profiles: "1c.1g.5gb+me", want: "1g.5gb+me"},
		"memory is shared, not added":  {profiles: "1c.7g.40gb 2c.7g.40gb 4c.7g.40gb", want: "7g.40gb (compute 4+2+1)"},
		"more than two instances hold": {profiles: "2c.3g.20gb 2c.3g.20gb 2c.3g.20gb", wantErr: "3g.20gb fits at most 2 times"},
		"larger than its instance":     {profiles: "4c.3g.20gb", wantErr: "3g.20gb has 3 compute slices, so 4c.3g.20gb is not possible"},
		"of nothing":                   {profiles: "0c.3g.20gb", wantErr: `begins with "0c"`},
		"of something":                 {profiles: "xc.3g.20gb", wantErr: `begins with "xc"`},
		"of an unknown instance":       {profiles: "1c.5g.20gb", wantErr: `no MIG profile "5g.20gb"`},
		"an empty name":                {profiles: "", want: "MIG on without slices"},
		"too many whole ones":          {profiles: "3g.20gb 3g.20gb 1g.5gb", wantErr: "need 9 memory slots"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := NewLayout(m, strings.Fields(test.profiles))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error = %v, want %s", err, test.wantErr)
				}
				return
			}
			if err != nil || l.String() != test.want {
				t.Errorf("layout = %s, %v, want %s", l, err, test.want)
			}
			if err := l.Check(m); err != nil {
				t.Errorf("it refuses itself: %v", err)
			}
		})
	}
	if (Layout{}).String() != "MIG off" {
		t.Error("the zero layout is MIG off")
	}
}

func TestPack(t *testing.T) {
	if diff := cmp.Diff([][]int{{4, 3}, {3, 2, 2}, {1}}, pack([]int{1, 2, 3, 4, 2, 3}, 7)); diff != "" {
		t.Errorf("packed (-want +got):\n%s", diff)
	}
}
