package kubelet_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

// apiAddress is where the node's API server listens, in the node's namespace.
const apiAddress = "127.0.0.1:6443"

// An apiServer is what a kubelet needs of the API: objects of any kind by their
// path, told of as they change. It checks nothing and decides nothing.
type apiServer struct {
	mu      sync.Mutex
	objects map[string]object // by path, such as /api/v1/namespaces/default/pods/x
	changes []change          // the oldest first: a change's resource version is its place
	changed chan struct{}     // closed with the next change
}

type object map[string]any

func (o object) meta() map[string]any {
	if m, ok := o["metadata"].(map[string]any); ok {
		return m
	}
	m := map[string]any{}
	o["metadata"] = m
	return m
}

type change struct {
	Type   string `json:"type"`
	Object object `json:"object"`
	path   string
}

// newAPIServer serves in the node's namespace until the test ends.
func newAPIServer(t testing.TB, n *Node) *apiServer {
	s := &apiServer{objects: map[string]object{}, changed: make(chan struct{})}
	n.Node.Serve(t, apiAddress, s)
	return s
}

// put stores an object and tells the watchers.
func (s *apiServer) put(path string, o object) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := "MODIFIED"
	if s.objects[path] == nil {
		what = "ADDED"
	}
	return s.tell(what, path, o)
}

// tell notes a change under the lock. Who was given an object before keeps it as it was.
func (s *apiServer) tell(what, path string, o object) object {
	fresh := toObject(o)
	fresh.meta()["resourceVersion"] = strconv.Itoa(len(s.changes) + 1)
	s.objects[path] = fresh
	if what == "DELETED" {
		delete(s.objects, path)
	}
	s.changes = append(s.changes, change{what, fresh, path})
	close(s.changed)
	s.changed = make(chan struct{})
	return fresh
}

// get decodes an object into what the pointer points to.
func (s *apiServer) get(path string, into any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return decode(s.objects[path], into)
}

// kinds are the collections that are asked for; subresources belong to an object.
var kinds = map[string]schema.GroupVersionKind{}

func init() {
	for gvk := range scheme.Scheme.AllKnownTypes() {
		kinds[gvk.GroupVersion().String()+"/"+strings.ToLower(gvk.Kind)+"s"] = gvk
	}
	class := schema.GroupVersionKind{Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass"}
	kinds["node.k8s.io/v1/runtimeclasses"] = class
}

// split takes a path apart: /api/v1/namespaces/x/pods/y/status is the object
// /api/v1/namespaces/x/pods/y of the kind Pod, its subresource status.
func split(path string) (gvk schema.GroupVersionKind, object, sub string, known bool) {
	f := strings.Split(strings.Trim(path, "/"), "/")
	group := 2 // api/v1
	if f[0] == "apis" {
		group = 3
	}
	if len(f) <= group {
		return gvk, "", "", false
	}
	version, rest := strings.Join(f[1:group], "/"), f[group:]
	if rest[0] == "namespaces" && len(rest) > 2 {
		rest = rest[2:]
	}
	gvk, known = kinds[version+"/"+rest[0]]
	if len(rest) > 2 {
		return gvk, strings.TrimSuffix(path, "/"+rest[2]), rest[2], known
	}
	if len(rest) == 2 {
		object = path
	}
	return gvk, object, "", known
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	gvk, path, sub, known := split(r.URL.Path)
	switch {
	case !known:
		refuse(w, http.StatusNotFound, "NotFound", r.URL.Path)
	case r.Method == http.MethodGet && path == "" && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.Method == http.MethodGet && path == "":
		s.list(w, r, gvk)
	case sub == "token":
		giveToken(w, r, path)
	case r.Method == http.MethodDelete && path == "": // nobody else makes such objects
		answer(w, object{"apiVersion": "v1", "kind": "Status", "status": metav1.StatusSuccess})
	default:
		s.change(w, r, gvk, path)
	}
}

// giveToken answers a request for a service account's token: with what was asked
// and a token that tells whose it is.
func giveToken(w http.ResponseWriter, r *http.Request, account string) {
	var asked object
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	asked["status"] = object{"token": "token of " + account, "expirationTimestamp": "2099-01-01T00:00:00Z"}
	answer(w, asked)
}

// change reads, stores, patches or deletes one object.
func (s *apiServer) change(w http.ResponseWriter, r *http.Request, gvk schema.GroupVersionKind, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := json.NewDecoder(r.Body)
	var sent object
	sends := r.Method != http.MethodGet && r.Method != http.MethodDelete
	if sends && (body.Decode(&sent) != nil || sent == nil) {
		refuse(w, http.StatusBadRequest, "BadRequest", path)
		return
	}
	if path == "" { // a new one
		name, _ := sent.meta()["name"].(string)
		path = r.URL.Path + "/" + name
		if s.objects[path] != nil {
			refuse(w, http.StatusConflict, "AlreadyExists", path)
			return
		}
		if sent.meta()["uid"] == nil {
			sent.meta()["uid"] = fmt.Sprintf("uid-%d", len(s.changes))
		}
		answer(w, s.tell("ADDED", path, named(sent, gvk)))
		return
	}
	o := s.objects[path]
	switch {
	case o == nil:
		refuse(w, http.StatusNotFound, "NotFound", path)
	case r.Method == http.MethodGet:
		answer(w, o)
	case r.Method == http.MethodDelete:
		answer(w, s.tell("DELETED", path, o))
	case r.Method == http.MethodPut:
		answer(w, s.tell("MODIFIED", path, named(sent, gvk)))
	case r.Method == http.MethodPatch:
		merged, err := strategicpatch.StrategicMergeMapPatch(strategicpatch.JSONMap(o), strategicpatch.JSONMap(sent), newOf(gvk))
		if err != nil {
			refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
			return
		}
		answer(w, s.tell("MODIFIED", path, object(merged)))
	}
}

// newOf is an empty object of that kind: a patch is merged by its fields' tags.
func newOf(gvk schema.GroupVersionKind) any {
	return reflect.New(scheme.Scheme.AllKnownTypes()[gvk]).Elem().Interface()
}

func named(o object, gvk schema.GroupVersionKind) object {
	o["apiVersion"], o["kind"] = gvk.GroupVersion().String(), gvk.Kind
	return o
}

// under says whether an object is of the collection that is asked for, and has
// the name if one is. All pods are this node's.
func under(r *http.Request, path string) bool {
	rest, ok := strings.CutPrefix(path, r.URL.Path+"/")
	if !ok { // of all namespaces
		at := strings.LastIndex(r.URL.Path, "/")
		head, kind := r.URL.Path[:at], r.URL.Path[at:]
		rest, ok = strings.CutPrefix(path, head+"/namespaces/")
		ok = ok && strings.Contains(rest, kind+"/")
	}
	_, name, named := strings.Cut(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	return ok && (!named || strings.HasSuffix(path, "/"+name))
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, gvk schema.GroupVersionKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []object{}
	for path, o := range s.objects {
		if under(r, path) {
			items = append(items, o)
		}
	}
	answer(w, object{"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind + "List",
		"metadata": object{"resourceVersion": strconv.Itoa(len(s.changes))}, "items": items})
}

// watch tells of the changes since a resource version, until the client goes away.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	next, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	for {
		s.mu.Lock()
		fresh, changed := s.changes[min(next, len(s.changes)):], s.changed
		s.mu.Unlock()
		for _, c := range fresh {
			if under(r, c.path) {
				json.NewEncoder(w).Encode(c)
			}
		}
		next += len(fresh)
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func answer(w http.ResponseWriter, o object) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(o)
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status: metav1.StatusFailure, Code: int32(code), Reason: metav1.StatusReason(reason), Message: message})
}

// toObject is an object of the API as the server stores it.
func toObject(of any) (o object) {
	text, err := json.Marshal(of)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		panic(fmt.Sprintf("%T: %v", of, err)) // the API's types have no such fields
	}
	return o
}

// decode is the way back.
func decode(o object, into any) bool {
	if o == nil {
		return false
	}
	text, _ := json.Marshal(o)
	return json.Unmarshal(text, into) == nil
}

// kubeconfig names the API server for the kubelet.
const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://` + apiAddress + `"}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`
