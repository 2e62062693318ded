package pipeline

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// quantity is a number with a unit of bytes.
var quantity = regexp.MustCompile(`^\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)\s*$`)

// byteUnits are Nomad's: k, M, G and T are powers of 1000, Ki, Mi, Gi and Ti
// of 1024.
var byteUnits = map[string]float64{
	"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

const unitHint = "Write a number and a unit: MiB, GiB or TiB (powers of 1024), MB, GB or TB (powers of 1000), as in \"512 MiB\"."

// parseBytes splits a text such as "40 GB" into number, unit and bytes.
func parseBytes(text string) (number, unit string, bytes float64, err error) {
	m := quantity.FindStringSubmatch(text)
	if m == nil {
		return "", "", 0, fmt.Errorf("%q is no amount of memory. %s", text, unitHint)
	}
	factor, ok := byteUnits[m[2]]
	if !ok {
		return "", "", 0, fmt.Errorf("%q is no unit of memory. %s", m[2], unitHint)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return "", "", 0, fmt.Errorf("%q is no amount of memory. %s", text, unitHint)
	}
	return m[1], m[2], n * factor, nil
}

// ParseMiB reads an amount of memory such as "40 GiB", rounded up to whole MiB.
func ParseMiB(text string) (int64, error) {
	n, err := parseMiB(cty.StringVal(text))
	return int64(n), err
}

// parseMiB reads an amount of memory, rounded up to whole MiB. A number
// without unit is MiB, as in Nomad.
func parseMiB(v cty.Value) (int, error) {
	var bytes float64
	switch v.Type() {
	case cty.Number:
		n, err := toFloat(v)
		if err != nil {
			return 0, err
		}
		bytes = n * (1 << 20)
	case cty.String:
		var err error
		if _, _, bytes, err = parseBytes(v.AsString()); err != nil {
			return 0, err
		}
	default:
		return 0, fmt.Errorf("a %s is no amount of memory. %s", v.Type().FriendlyName(), unitHint)
	}
	return int(min(math.Ceil(bytes/(1<<20)), math.MaxInt32)), nil
}

// parseDuration reads a duration such as "90s" or "1h30m".
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration. Write numbers with units, as in \"90s\", \"30m\" or \"1h30m\"", text)
	}
	return d, nil
}

func toFloat(v cty.Value) (float64, error) {
	f, _ := v.AsBigFloat().Float64()
	if math.IsInf(f, 0) {
		return 0, fmt.Errorf("the number is too large")
	}
	return f, nil
}

// numberText writes a known number for people, however large.
func numberText(v cty.Value) string {
	var n *big.Float = v.AsBigFloat()
	return n.Text('g', 12)
}
