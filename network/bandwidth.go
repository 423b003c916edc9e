package network

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The annotations by which Kubernetes limits a pod's traffic; ingress is what the
// pod receives.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// The limits of a limit, in bits per second, as Kubernetes checks them.
const (
	minRate = 1e3
	maxRate = 1e15
)

// Bandwidth is at most how much traffic a pod has, in bits per second; 0 is no limit.
type Bandwidth struct {
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// Limits reads a pod's bandwidth from its annotations.
func Limits(annotations map[string]string) (b Bandwidth, err error) {
	for key, rate := range map[string]*uint64{ingressAnnotation: &b.Ingress, egressAnnotation: &b.Egress} {
		text, given := annotations[key]
		if !given {
			continue
		}
		if *rate, err = quantity(text); err != nil {
			return Bandwidth{}, fmt.Errorf("cannot use annotation %s: %w", key, err)
		}
	}
	return b, nil
}

// quantity reads a Kubernetes quantity, such as 10M, 1Gi, 1500k, 1e6 or 0.5G.
func quantity(text string) (uint64, error) {
	wrong := fmt.Errorf("%q has to be 1k to 1P bits per second, such as 10M", text)
	number, factor := text, 1.0
	for i, suffix := range []string{"Ki", "Mi", "Gi", "Ti", "Pi", "k", "M", "G", "T", "P"} {
		if rest, ok := strings.CutSuffix(text, suffix); ok {
			number, factor = rest, math.Pow(1000, float64(i-4))
			if i < 5 {
				factor = math.Pow(1024, float64(i+1))
			}
			break
		}
	}
	if strings.Trim(number, "0123456789.eE+-") != "" { // ParseFloat also knows inf and 0x10
		return 0, wrong
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || value*factor < minRate || value*factor > maxRate {
		return 0, wrong
	}
	return uint64(math.Round(value * factor)), nil
}
