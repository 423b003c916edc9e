package stream

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnelProtocol is SPDY's port-forward inside a WebSocket's binary messages, as
// clients speak it that reach the world by WebSocket alone.
const tunnelProtocol = "SPDY/3.1+" + portforward.ProtocolV1Name

func wantsTunnel(r *http.Request) bool {
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		offered := strings.FieldsFunc(header, func(c rune) bool { return c == ',' || c == ' ' })
		if slices.Contains(offered, tunnelProtocol) {
			return true
		}
	}
	return false
}

// serveTunnel is a session of any number of connections, as by SPDY.
func serveTunnel(w http.ResponseWriter, r *http.Request, f *forwards) {
	websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{tunnelProtocol}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			ctx, cancel := context.WithCancelCause(r.Context())
			conn, err := spdy.NewServerConnection(tunnel{ws}, f.receiver(ctx))
			if err != nil {
				cancel(nil)
				return
			}
			f.conn = conn
			f.conn.SetIdleTimeout(IdleTimeout)
			f.run(ctx, cancel)
		},
	}.ServeHTTP(w, r)
}

// tunnel is a WebSocket as a connection. Its own addresses come from headers
// that the client may have left out.
type tunnel struct{ *websocket.Conn }

func (tunnel) LocalAddr() net.Addr  { return tunnelAddr{} }
func (tunnel) RemoteAddr() net.Addr { return tunnelAddr{} }

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "websocket" }
func (tunnelAddr) String() string  { return "tunnel" }
