package show

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-ml/drover/orchestrator/cli/term"
)

// Duration writes how long something took, in two units at most.
func Duration(d time.Duration) string {
	switch {
	case d < 50*time.Millisecond:
		return "" // nothing to tell
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// Between is how long something took that may not have ended, or begun.
func Between(start, end *time.Time, now time.Time) string {
	switch {
	case start == nil:
		return ""
	case end == nil:
		return Duration(max(now.Sub(*start), 0))
	default:
		return Duration(max(end.Sub(*start), 0))
	}
}

// Ago writes how long ago something was.
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours())/24)
	}
}

// Number writes a metric or a numeric parameter, in few digits.
func Number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e9 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 5, 64)
}

// Value writes a parameter.
func Value(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return x
	case float64:
		return Number(x)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

// Bytes writes a size.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// Digest is enough of a digest to recognize it.
func Digest(d string) string {
	hexadecimal := strings.TrimPrefix(d, "sha256:")
	return hexadecimal[:min(len(hexadecimal), 12)]
}

// Pairs writes names and values in order of name.
func Pairs(m map[string]any) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+Value(m[k]))
	}
	return term.Clean(strings.Join(out, " "))
}

// Stamp writes a moment in local time.
func Stamp(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// Count writes a number of things.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Joined writes two remarks of which any may be empty.
func Joined(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

// JoinWords is Joined with a space.
func JoinWords(a, b string) string {
	if a != "" && b != "" {
		return a + " " + b
	}
	return a + b
}

// Took is how long something took that has ended.
func Took(start, end *time.Time) string {
	if end == nil {
		return ""
	}
	return Between(start, end, *end)
}

// FirstLine is the first line of a text that may have more.
func FirstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
