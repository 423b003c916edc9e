// Command kubelet is the kubelet of k8s.io/kubernetes, unchanged but for one
// directory: the links to container logs, which it makes in /var/log/containers,
// it makes in $CONTAINER_LOGS_DIR, so that a test leaves the machine's alone.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // as the kubelet itself
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // does, for the log
	_ "k8s.io/component-base/metrics/prometheus/version"  // format and metrics
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/pkg/kubelet"
)

func main() {
	if dir := os.Getenv("CONTAINER_LOGS_DIR"); dir != "" {
		kubelet.ContainerLogsDir = dir
	}
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
