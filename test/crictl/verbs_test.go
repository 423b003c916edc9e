package crictl_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cri-box/cri-box/test/harness"
)

const head = `# crictl, verb by verb

crictl is the command line of the CRI ([cri-tools](https://github.com/kubernetes-sigs/cri-tools)). It finds cri-box by
/etc/crictl.yaml:

    runtime-endpoint: unix:///run/cri-box/cri-box.sock

What follows was printed by ` + "`go test ./test/crictl -update`" + `, the terminal's control codes left out; ` + "`make crictl`" + ` runs
all of it again and checks what is printed. Inspect and info are shown by a template, since they print some hundred lines.

`

const podJSON = `{
  "metadata": {"name": "web", "namespace": "default", "uid": "web-1"},
  "hostname": "web",
  "log_directory": "LOGS",
  "port_mappings": [{"container_port": 80}],
  "linux": {}
}
`

const containerJSON = `{
  "metadata": {"name": "server"},
  "image": {"image": "IMAGE"},
  "labels": {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"},
  "command": ["/bin/sh", "-c", "echo serving; echo page > /tmp/index.html; exec httpd -f -h /tmp"],
  "log_path": "server.log",
  "linux": {"resources": {"memory_limit_in_bytes": 67108864, "cpu_shares": 512}}
}
`

const shellJSON = `{
  "metadata": {"name": "shell"},
  "image": {"image": "IMAGE"},
  "labels": {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "default"},
  "command": ["/bin/sh"],
  "log_path": "shell.log",
  "stdin": true,
  "tty": true
}
`

// TestVerbs uses every verb that crictl has.
func TestVerbs(t *testing.T) {
	s := newSession(t)
	image := s.Push("busybox", harness.TestImage(t, "busybox"))
	events := s.start("events")
	s.runtime()
	s.pull(image)
	pod := s.runPod()
	server := s.runContainer(pod, image)
	s.look(pod, server)
	s.logs(server)
	s.exec(server)
	s.attach(pod, image)
	s.portForward(pod)
	s.numbers(server)
	s.change(server)
	s.end(pod, server, image)
	s.say("All that happened meanwhile, in another terminal:")
	for _, want := range []string{"CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"} {
		events.until(want)
	}
	events.endShort()
	s.shortcut(image)
	s.finish(head)
}

func (s *session) runtime() {
	s.say("## The runtime")
	s.run([]string{"cri-box", "v1"}, "version")
	s.run([]string{"CGROUPFS"}, "runtime-config")
	s.run([]string{"RuntimeReady=true NetworkReady=true", "OK"}, "info", "-o", "go-template", "--template",
		"{{range .status.conditions}}{{.type}}={{.status}} {{end}}{{.config.sandboxImage}}{{.lastCNILoadStatus}}")
	s.expectJSON("config", "info")
	s.run([]string{"successfully updated"}, "update-runtime-config", "--pod-cidr", "10.88.0.0/16")
}

func (s *session) pull(image string) {
	s.say("## Images")
	s.run([]string{"Image is up to date for sha256:"}, "pull", image)
	s.run([]string{"127.0.0.1:5000/busybox", "latest"}, "images")
	s.run([]string{"sha256:"}, "inspecti", "-o", "go-template", "--template", "{{.status.id}} {{.status.repoTags}} {{.status.size}} bytes", image)
	s.expectJSON("status", "inspecti", image)
	s.run([]string{`"usedBytes"`, s.Root}, "imagefsinfo")
}

func (s *session) runPod() string {
	s.say("## A pod and a container")
	s.file("pod.json", strings.ReplaceAll(podJSON, "LOGS", s.dir+"/logs"))
	id := s.run(nil, "runp", "pod.json")
	s.run([]string{"web", "Ready"}, "pods")
	return id
}

func (s *session) runContainer(pod, image string) string {
	s.file("server.json", strings.ReplaceAll(containerJSON, "IMAGE", image))
	id := s.run(nil, "create", pod, "server.json", "pod.json")
	s.run([]string{id}, "start", id)
	s.run([]string{"server", "Running"}, "ps")
	return id
}

func (s *session) look(pod, server string) {
	s.run([]string{"SANDBOX_READY 10.88."}, "inspectp", "-o", "go-template", "--template", "{{.status.state}} {{.status.network.ip}} pid {{.info.pid}}", pod)
	s.expectJSON("status", "inspectp", pod)
	s.run([]string{"CONTAINER_RUNNING", "/bin/sh"}, "inspect", "-o", "go-template", "--template", "{{.status.state}} pid {{.info.pid}} {{.info.runtimeSpec.process.args}}", server)
	s.expectJSON("status", "inspect", server)
}

func (s *session) logs(server string) {
	s.say("## Logs")
	s.Wait("the first line", func() bool { return strings.Contains(s.quiet("logs", server), "serving") })
	s.run([]string{"serving\n"}, "logs", server)
	s.Wait("the page", func() bool { // which comes after that line
		_, code := s.try("exec", server, "wget", "-qO-", "http://localhost/index.html")
		return code == 0
	})
	follow := s.start("logs", "-f", server)
	follow.until("serving")
	s.quiet("exec", server, "sh", "-c", "echo one more >/proc/$(pidof httpd)/fd/1")
	follow.until("one more\n")
	follow.end()
}

func (s *session) exec(server string) {
	s.say("## Exec")
	s.run([]string{"page\n"}, "exec", server, "wget", "-qO-", "http://localhost/index.html")
	s.run([]string{"uid=0"}, "exec", "-s", server, "id")
	for _, args := range [][]string{{"exec", server, "sh", "-c", "exit 7"}, {"exec", server, "no-such-program"}} {
		if out, code := s.try(args...); code == 0 || !strings.Contains(out, "exit code") && !strings.Contains(out, "exit status") {
			s.T.Errorf("crictl %v ended with %d: %s", args, code, out)
		}
	}
	term := s.terminal("exec", "-it", server, "sh")
	term.until("# ")
	term.enter("tty; stty size; echo $((6*7)); exit")
	if code := term.wait(); code != 0 {
		s.T.Errorf("exec -it ended with %d", code)
	}
	s.expect(term.text(), []string{"/dev/pts/0", "24 80", "42"}, term.args)
}

func (s *session) attach(pod, image string) {
	s.say("## Attach")
	s.file("shell.json", strings.ReplaceAll(shellJSON, "IMAGE", image))
	shell := s.run(nil, "create", pod, "shell.json", "pod.json")
	s.run(nil, "start", shell)
	term := s.terminal("attach", "-i", "-t", shell)
	term.enter("echo at'ta'ched; exit 3")
	term.until("attached\r\n")
	term.wait()
	s.run([]string{"Exited", "shell"}, "ps", "-a", "--state", "Exited")
	s.run([]string{shell}, "rm", shell)
}

func (s *session) portForward(pod string) {
	s.say("## Port-forward\n\nIn one terminal, while another one asks for the page:")
	forward := s.start("port-forward", pod, "8080:80")
	forward.until("Forwarding from 127.0.0.1:8080 -> 80")
	for range 2 {
		resp, err := s.Node.Client().Get("http://127.0.0.1:8080/index.html")
		if err != nil {
			s.T.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || string(text) != "page\n" {
			s.T.Errorf("through the port: %s %q %v", resp.Status, text, err)
		}
		forward.until("Handling connection for 8080")
	}
	forward.end()
}

func (s *session) numbers(server string) {
	s.say("## Numbers")
	s.run([]string{"server", "CPU", "MEM"}, "stats")
	s.run([]string{server[:13]}, "stats", "--id", server)
	s.run([]string{"web", "CPU", "MEM"}, "statsp")
	s.expectJSON("descriptors", "metricdescs")
	s.expectJSON("podMetrics", "metricsp")
	metrics := s.quiet("metricsp")
	s.expect(metrics, []string{"container_memory_working_set_bytes", "container_network_receive_bytes_total"}, []string{"metricsp"})
}

func (s *session) change(server string) {
	s.say("## Update")
	s.run([]string{server}, "update", "--memory", "134217728", "--cpu-share", "256", server)
	s.run([]string{"134217728 256"}, "inspect", "-o", "go-template", "--template",
		"{{.status.resources.linux.memoryLimitInBytes}} {{.status.resources.linux.cpuShares}}", server)
	if out, code := s.try("checkpoint", "--export", "file.tar", server); code == 0 || !strings.Contains(out, "Unimplemented") {
		s.T.Errorf("checkpoint ended with %d: %s", code, out)
	}
}

func (s *session) end(pod, server, image string) {
	s.say("## The end")
	s.run([]string{server}, "stop", server)
	s.run([]string{"Exited"}, "ps", "-a")
	s.run([]string{server}, "rm", server)
	s.run([]string{"Stopped sandbox " + pod}, "stopp", pod)
	s.run([]string{"NotReady"}, "pods")
	s.run([]string{"Removed sandbox " + pod}, "rmp", pod)
	s.run([]string{"Deleted: " + image}, "rmi", image)
	if out := s.run(nil, "images"); strings.Contains(out, "busybox") {
		s.T.Errorf("the image is still there:\n%s", out)
	}
}

// shortcut is run, which does it all in one, and the verbs of crictl itself.
func (s *session) shortcut(image string) {
	s.say("## All in one")
	id := s.run(nil, "run", "server.json", "pod.json")
	s.run([]string{id[:13], "Running"}, "ps")
	s.quiet("rmp", "-fa")
	s.quiet("rmi", "-a")
	s.quiet("config", "--set", "timeout=10")
	s.quiet("completion")
	_ = image
}

// expectJSON checks a verb's whole output, which is too long to be shown.
func (s *session) expectJSON(key string, args ...string) {
	s.T.Helper()
	var object map[string]any
	out := s.quiet(args...)
	if err := json.Unmarshal([]byte(out), &object); err != nil || object[key] == nil {
		s.T.Errorf("crictl %s: %v, no %q in\n%.2000s", line(args), err, key, out)
	}
}

// endShort interrupts events and shows the first line of each of them.
func (b *background) endShort() {
	b.s.T.Helper()
	var kinds strings.Builder
	for line := range strings.Lines(b.text()) {
		if strings.Contains(line, `"containerEventType"`) || strings.Contains(line, `"containerId"`) {
			kinds.WriteString(line)
		}
	}
	b.cmd.Process.Kill()
	b.cmd.Wait() // killed
	b.s.show("crictl events | grep -E 'containerEventType|containerId'", kinds.String()+"^C")
}
