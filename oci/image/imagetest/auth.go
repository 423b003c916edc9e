package imagetest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

const tokenPath = "/token"

// auth is whom the registry lets in.
type auth struct {
	user, password string
	token          bool            // ask for bearer tokens instead of the password
	anonymous      bool            // the token server gives to everybody
	refresh        string          // an identity token that the token server takes
	issued         map[string]bool // bearer tokens that are good
}

// BasicAuth asks everybody for this user and password.
func (r *Registry) BasicAuth(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth{user: user, password: password}
}

// TokenAuth asks everybody for a bearer token. The registry's own token server,
// at /token, gives one for the user and password or for the identity token, as
// Docker's "token authentication" and "OAuth2" documents say.
func (r *Registry) TokenAuth(user, password, identityToken string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth{user: user, password: password, token: true, refresh: identityToken, issued: map[string]bool{}}
}

// AnonymousTokens asks everybody for a bearer token and gives one to everybody,
// as public registries do.
func (r *Registry) AnonymousTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth{token: true, anonymous: true, issued: map[string]bool{}}
}

// AcceptToken makes a bearer token good, as if it had been given out. It needs
// TokenAuth before.
func (r *Registry) AcceptToken(token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth.issued[token] = true
}

// authorized says whether a request may go on, and answers it if not.
func (r *Registry) authorized(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.auth
	switch {
	case a.user == "" && !a.token:
		return true
	case a.token:
		token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if ok && a.issued[token] {
			return true
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s%s",service="imagetest"`, req.Host, tokenPath))
	default:
		user, password, ok := req.BasicAuth()
		if ok && user == a.user && password == a.password {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="imagetest"`)
	}
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// serveToken gives out bearer tokens.
func (r *Registry) serveToken(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.auth.token || !r.auth.knows(req) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	token := rand.Text()
	r.auth.issued[token] = true
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func (a auth) knows(req *http.Request) bool {
	if a.anonymous {
		return true
	}
	if req.Method == http.MethodPost {
		switch req.PostFormValue("grant_type") {
		case "refresh_token":
			return a.refresh != "" && req.PostFormValue("refresh_token") == a.refresh
		case "password":
			return req.PostFormValue("username") == a.user && req.PostFormValue("password") == a.password
		}
		return false
	}
	user, password, ok := req.BasicAuth()
	return ok && user == a.user && password == a.password
}
