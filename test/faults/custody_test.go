package faults_test

import (
	"testing"
)

// TestStoppedPodIsDropped: a daemon that dies between recording a pod's stop and
// dropping its namespaces leaves that to the next one. The harness looks what serve
// and keeper still hold.
func TestStoppedPodIsDropped(t *testing.T) {
	l := newLife(t)
	pod := l.RunPod()
	l.arm("pod: drop namespaces", "delay 1m")
	pod.Stop()
	l.Kill()
	l.Start()
	pod.Remove()
}
