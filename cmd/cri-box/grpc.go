package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/cri-box/cri-box/cri"
	"github.com/cri-box/cri-box/oci/mount"
	"google.golang.org/grpc"
)

// maxRequest is the largest CRI message that is taken, in bytes; the kubelet's
// own limit is the same.
const maxRequest = 16 << 20

// maxResponse is the largest that is sent, to clients that take more than the kubelet:
// a list.
const maxResponse = 2 * maxRequest

// stopBound is how long calls under way have when the daemon is told to end.
const stopBound = 5 * time.Second

// window is how much a client may send ahead, in bytes. It is fixed: to find one that
// fits, gRPC would ping at each request, and the other side of a unix socket is near.
const window = 1 << 20

var errRecovering = errors.New("cri-box is reading its records")

func (d *daemon) newServer() *grpc.Server {
	server := grpc.NewServer(append(traceCalls(d.config.Tracing), grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(maxResponse),
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.ChainUnaryInterceptor(d.metrics.Unary, cri.Intercept, d.waitRecovered, d.remember),
		grpc.ChainStreamInterceptor(d.metrics.Stream, cri.InterceptStream, d.waitRecoveredStream))...)
	(&cri.Server{Sandboxes: d.sandboxes, Images: d.images, Streams: d.streams, Network: d.network.Ready, NetworkNote: d.network.Note, PodCIDR: d.network.SetPodCIDR, Ready: d.ready,
		RuntimeVersion: strings.TrimPrefix(version, "v"), CgroupDriver: d.groups.Driver(), MountAttributes: mount.Detect().SetAttr, UserNamespaces: d.sandboxes.UserNamespaces(), Info: d.info}).Register(server)
	return server
}

func (d *daemon) ready() error {
	if !d.recovered.Load() {
		return errRecovering
	}
	return nil
}

// waitRecovered holds back what needs pods until they are known.
func (d *daemon) waitRecovered(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	switch info.FullMethod {
	case "/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/Status", "/runtime.v1.RuntimeService/RuntimeConfig":
		return next(ctx, req)
	}
	if err := d.awaitGate(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// waitRecoveredStream does so for all streams: each is about pods or images.
func (d *daemon) waitRecoveredStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := d.awaitGate(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}

func (d *daemon) awaitGate(ctx context.Context) error {
	select {
	case <-d.gate:
		return nil
	case <-ctx.Done():
		return errors.Join(errRecovering, ctx.Err())
	}
}

// info is what crictl info shows more.
func (d *daemon) info() map[string]string {
	config, err := json.Marshal(map[string]any{"sandboxImage": "", "root": d.root, "state": d.state, "cgroupMode": d.groups.Mode,
		"keeperPid": d.keeper.PID(), "instance": d.instance()})
	if err != nil {
		slog.Error("cannot encode info", "err", err)
		return nil
	}
	cni := "OK"
	if err := d.network.Ready(); err != nil {
		cni = err.Error()
	}
	return map[string]string{"config": string(config), "lastCNILoadStatus": cni, "setAside": d.setAside(),
		"eventsLost": strconv.FormatUint(d.sandboxes.EventsLost(), 10), "configuration": d.configuration()}
}

func (d *daemon) stop(server *grpc.Server) {
	d.sandboxes.EndEvents()
	done := make(chan struct{})
	go func() { server.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopBound):
		server.Stop()
	}
}
