package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// through returns a client that knows no other way than the proxy.
func through(t *testing.T, server *httptest.Server) *http.Client {
	t.Helper()
	way := httptest.NewServer(http.HandlerFunc(Connect))
	t.Cleanup(way.Close)
	at, err := url.Parse(way.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := server.Client()
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(at)
	return client
}

func TestConnect(t *testing.T) {
	page := strings.Repeat("from outside", 10000)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) }))
	defer server.Close()
	resp, err := through(t, server).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != page {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(page))
	}
}

// A registry that is not there must not look like one that has no images.
func TestNobodyThere(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	client := through(t, server)
	server.Close()
	if resp, err := client.Get(server.URL); err == nil || !strings.Contains(err.Error(), "Bad Gateway") {
		t.Errorf("got %v and %v, want Bad Gateway", resp, err)
	}
}

func TestOnlyConnect(t *testing.T) {
	w := httptest.NewRecorder()
	Connect(w, httptest.NewRequest(http.MethodGet, "http://example.com/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("got %d, want %d", w.Code, http.StatusMethodNotAllowed)
	}
}
