package inventory

import "math/bits"

// mask is some devices of a node, by their positions.
type mask []uint64

func newMask(n int) mask { return make(mask, (n+63)/64) }

func (m mask) has(i int) bool { return m[i>>6]>>(i&63)&1 != 0 }
func (m mask) set(i int)      { m[i>>6] |= 1 << (i & 63) }
func (m mask) clear(i int)    { m[i>>6] &^= 1 << (i & 63) }

// both counts the devices that are in m and in o.
func (m mask) both(o mask) (n int) {
	for i, w := range m {
		n += bits.OnesCount64(w & o[i])
	}
	return n
}

// all counts the devices that are in all three.
func (m mask) all(o, p mask) (n int) {
	for i, w := range m {
		n += bits.OnesCount64(w & o[i] & p[i])
	}
	return n
}

// each calls do with the positions in m and in o, ascending.
func (m mask) each(o mask, do func(i int)) {
	for w := range m {
		for word := m[w] & o[w]; word != 0; word &= word - 1 {
			do(w<<6 + bits.TrailingZeros64(word))
		}
	}
}

// keep leaves those of m that are in o.
func (m mask) keep(o mask) {
	for i := range m {
		m[i] &= o[i]
	}
}
