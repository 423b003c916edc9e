package image

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// maxHostsFile bounds a hosts.toml, in bytes.
const maxHostsFile = 1 << 20

// hostsFile is what is checked of a hosts.toml. The client reads it again: where
// it cannot, it says so in a log and asks the registry instead of the mirror.
type hostsFile struct {
	hostsEntry
	Hosts map[string]hostsEntry `toml:"host"`
}

type hostsEntry struct {
	Server       string         `toml:"server"`
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	Header       map[string]any `toml:"header"`
	DialTimeout  string         `toml:"dial_timeout"`
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
}

func checkHostsFile(path string) error {
	data, err := readHostsFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	var file hostsFile
	if err == nil {
		err = toml.Unmarshal(data, &file)
	}
	if err == nil {
		err = file.check(file.Server)
	}
	for host, entry := range file.Hosts {
		if entryErr := entry.check(host); err == nil && entryErr != nil {
			err = fmt.Errorf("host %q: %w", host, entryErr)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot read registry configuration %s: %w", path, err)
	}
	return nil
}

func readHostsFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxHostsFile+1))
	if err == nil && len(data) > maxHostsFile {
		err = fmt.Errorf("file is larger than %d bytes", maxHostsFile)
	}
	return data, err
}

// check judges the settings of one address.
func (e hostsEntry) check(address string) error {
	if !strings.HasPrefix(address, "http") {
		address = "https://" + address
	}
	if _, err := url.Parse(address); err != nil {
		return fmt.Errorf("%q is no address such as https://mirror.example", address)
	}
	for _, c := range e.Capabilities {
		switch strings.ToLower(c) {
		case "pull", "resolve", "push", "referrers":
		default:
			return fmt.Errorf("capability %q is not known: use pull, resolve, push or referrers", c)
		}
	}
	if e.CA != nil && !isText(e.CA) && !isTexts(e.CA) {
		return fmt.Errorf("ca is neither a file nor a list of files: %v", e.CA)
	}
	for name, value := range e.Header {
		if !isText(value) && !isTexts(value) {
			return fmt.Errorf("header %q is neither a text nor a list of texts", name) // its value may be a secret
		}
	}
	if err := checkClient(e.Client); err != nil || e.DialTimeout == "" {
		return err
	}
	_, err := time.ParseDuration(e.DialTimeout)
	return err
}

// checkClient accepts a file with certificate and key, a list of such, or a list
// of pairs.
func checkClient(client any) error {
	if client == nil || isText(client) {
		return nil
	}
	list, ok := client.([]any)
	if !ok {
		return fmt.Errorf("client is neither a file nor a list of files or pairs: %v", client)
	}
	for _, entry := range list {
		pair, isList := entry.([]any)
		switch {
		case isList && isTexts(entry) && len(pair) == 2, isText(entry):
		case isList:
			return fmt.Errorf("client has a pair of %d: %v; a pair is a certificate and its key", len(pair), pair)
		default:
			return fmt.Errorf("client has an entry that is no file: %v", entry)
		}
	}
	return nil
}

func isText(v any) bool {
	_, ok := v.(string)
	return ok
}

func isTexts(v any) bool {
	list, ok := v.([]any)
	for _, entry := range list {
		ok = ok && isText(entry)
	}
	return ok
}
