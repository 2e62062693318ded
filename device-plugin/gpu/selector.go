package gpu

// Selector matches boards, with their slices, or single slices. It is what an
// entry of a filter is, for the other options that are about some devices only.
type Selector struct {
	text string
	selector
}

// ParseSelector reads a selector. The error says how one is written.
func ParseSelector(text string) (Selector, error) {
	s, err := parseSelector(text)
	return Selector{text, s}, err
}

// Matches reports whether a device is one of those. A replica is its hardware.
func (s Selector) Matches(d Device) bool { return s.matches(d) }

// String is what was parsed.
func (s Selector) String() string { return s.text }
