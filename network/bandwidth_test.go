package network

import "testing"

func TestLimits(t *testing.T) {
	for text, want := range map[string]uint64{"10M": 10e6, "1Gi": 1 << 30, "1500k": 1500e3, "1e6": 1e6, "0.5G": 5e8, "2Mi": 2 << 20, "1P": 1e15, "1000": 1000} {
		got, err := Limits(map[string]string{ingressAnnotation: text, egressAnnotation: "2k"})
		if err != nil || got.Ingress != want || got.Egress != 2000 {
			t.Errorf("%s: %+v, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "999", "-1M", "2P", "10MB", "inf", "0x10k", "1e30", "10 M"} {
		if got, err := Limits(map[string]string{egressAnnotation: text}); err == nil {
			t.Errorf("%q gave %+v", text, got)
		}
	}
	if got, err := Limits(nil); err != nil || got != (Bandwidth{}) {
		t.Error(got, err)
	}
}
