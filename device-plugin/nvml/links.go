package nvml

import (
	lib "github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/drover-ml/drover/device-plugin/gpu"
)

// link is one NVLink of a board.
type link struct {
	number int
	active bool
}

// links are the NVLinks that a board has, in use or not.
func (r *reader) links(d lib.Device) []link {
	if !r.has("nvmlDeviceGetNvLinkState") {
		return nil
	}
	var links []link
	for n := range lib.NVLINK_MAX_LINKS {
		state, ret := d.GetNvLinkState(n)
		switch {
		case ret == lib.SUCCESS:
			links = append(links, link{n, state == lib.FEATURE_ENABLED})
		case ret == lib.ERROR_INVALID_ARGUMENT, ret == lib.ERROR_NOT_SUPPORTED && n == 0:
			return links // there are no more
		default:
			r.note(ret)
		}
	}
	return links
}

// linkCounters are the values of one link, in the order of linkVitals.
var linkCounters = []uint32{
	lib.FI_DEV_NVLINK_ERROR_DL_CRC, lib.FI_DEV_NVLINK_ERROR_DL_REPLAY, lib.FI_DEV_NVLINK_ERROR_DL_RECOVERY,
	lib.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, lib.FI_DEV_NVLINK_THROUGHPUT_DATA_RX,
	lib.FI_DEV_NVLINK_COUNT_XMIT_BYTES, lib.FI_DEV_NVLINK_COUNT_RCV_BYTES,
}

// linkVitals reads all links of a board in few calls. Links that are down have
// no counters.
func (r *reader) linkVitals(d lib.Device) []gpu.NVLink {
	links := r.links(d)
	if len(links) == 0 {
		return nil
	}
	var asked []field
	for _, l := range links {
		if l.active {
			for _, id := range linkCounters {
				asked = append(asked, field{id, uint32(l.number)})
			}
		}
	}
	values := r.fields(d, asked...)
	vitals := make([]gpu.NVLink, len(links))
	for i, l := range links {
		vitals[i] = gpu.NVLink{Link: l.number, Active: l.active}
		if !l.active {
			continue
		}
		v := values[:len(linkCounters)]
		values = values[len(linkCounters):]
		vitals[i].CRCErrors = r.linkErrors(d, l, v[0], lib.NVLINK_ERROR_DL_CRC_FLIT)
		vitals[i].ReplayErrors = r.linkErrors(d, l, v[1], lib.NVLINK_ERROR_DL_REPLAY)
		vitals[i].RecoveryErrors = r.linkErrors(d, l, v[2], lib.NVLINK_ERROR_DL_RECOVERY)
		vitals[i].TransmittedKiB = kibibytes(v[3], v[5])
		vitals[i].ReceivedKiB = kibibytes(v[4], v[6])
	}
	return vitals
}

// linkErrors is a counter as read with the others, or where the driver does
// not have it there, by the older call.
func (r *reader) linkErrors(d lib.Device, l link, value *int64, counter lib.NvLinkErrorCounter) *int64 {
	if value != nil {
		return value
	}
	return counted(read(r, func() (uint64, lib.Return) {
		return d.GetNvLinkErrorCounter(l.number, counter)
	}, "nvmlDeviceGetNvLinkErrorCounter"))
}

// kibibytes prefers the counter that is in KiB to that in bytes, which boards
// of the fifth NVLink generation have instead.
func kibibytes(kib, bytes *int64) *int64 {
	if kib == nil && bytes != nil {
		return integer(*bytes >> 10)
	}
	return kib
}
