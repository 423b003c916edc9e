package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cri-box/cri-box/oci/image"
	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func imagesCommand(n *node) *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "List, pull, import, remove and explain images"}
	one := func(use, short string, do func(ctx context.Context, c *client, arg string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(0, func(ctx context.Context, c *client) error { return do(ctx, c, args[0]) })
		}}
	}
	c.AddCommand(
		&cobra.Command{Use: "ls", Short: "List images", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error { return c.listImages(ctx) })
		}},
		one("pull IMAGE", "Get an image from its registry", func(ctx context.Context, c *client, ref string) error {
			id, err := c.pull(ctx, ref, "")
			if err != nil {
				return err
			}
			return c.printIDs([]string{id})
		}),
		one("import FILE", "Add the images of an OCI layout or a docker archive", func(ctx context.Context, c *client, file string) error { return c.importImages(ctx, file) }),
		one("explain IMAGE", "Show what a pull would do: hosts in order, certificates, credentials", func(ctx context.Context, c *client, ref string) error { return c.explainImage(ctx, ref) }),
		&cobra.Command{Use: "rm IMAGE...", Short: "Remove images", ValidArgsFunction: n.complete(0, imageRefs), Args: cobra.MinimumNArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return n.withClient(callBound, func(ctx context.Context, c *client) error {
				return c.each(args, func(ref string) (string, error) { return c.removeImage(ctx, ref) })
			})
		}},
	)
	return c
}

func (c *client) listImages(ctx context.Context) error {
	resp, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	if c.format == "json" {
		return printMessages(resp.Images)
	}
	rows := [][]string{{"NAME", "IMAGE", "SIZE", "PINNED"}}
	slices.SortFunc(resp.Images, func(a, b *runtimeapi.Image) int { return cmp.Compare(imageName(a), imageName(b)) })
	for _, img := range resp.Images {
		pinned := ""
		if img.Pinned {
			pinned = "yes"
		}
		rows = append(rows, []string{imageName(img), short(img.Id), bytesText(img.Size), pinned})
	}
	return printTable(os.Stdout, rows)
}

// imageName is all that an image is called, "-" if nothing.
func imageName(img *runtimeapi.Image) string {
	names := img.RepoTags
	if len(names) == 0 {
		names = img.RepoDigests
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

// removeImage takes a name or an id away; an image that is not here is an error
// for people, other than for the kubelet.
func (c *client) removeImage(ctx context.Context, ref string) (string, error) {
	spec := &runtimeapi.ImageSpec{Image: ref}
	resp, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return "", err
	}
	if resp.Image == nil {
		return "", fmt.Errorf("there is no image %q; `cri-box images ls` lists them", ref)
	}
	_, err = c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec})
	return resp.Image.Id, err
}

// importImages has the daemon read an archive, and prints what was in it.
func (c *client) importImages(ctx context.Context, file string) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	body, err := ask(ctx, c.settings.state, http.MethodPost, "/images/import?path="+url.QueryEscape(path))
	if err != nil {
		return fmt.Errorf("cannot import %s: %w", file, err)
	}
	defer body.Close()
	var lines []imported
	if err := json.NewDecoder(body).Decode(&lines); err != nil {
		return fmt.Errorf("cannot import %s: %w", file, err)
	}
	if c.format == "json" {
		return printJSON(lines)
	}
	for _, l := range lines {
		fmt.Println(l.ID, visible(strings.Join(l.Tags, " ")))
	}
	return nil
}

func (c *client) explainImage(ctx context.Context, ref string) error {
	body, err := ask(ctx, c.settings.state, http.MethodGet, "/images/explain?ref="+url.QueryEscape(ref))
	if err != nil {
		return err
	}
	defer body.Close()
	var plan image.Plan
	if err := json.NewDecoder(body).Decode(&plan); err != nil {
		return fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	if c.format == "json" {
		return printJSON(plan)
	}
	fmt.Println("name          ", visible(plan.Name))
	directory := plan.Directory
	if directory == "" {
		directory = "none of " + strings.Join(c.settings.config.Image.CertsDirs, ", ") + " knows the registry"
	}
	fmt.Println("configuration ", visible(directory))
	fmt.Println("credentials   ", "from each request: the kubelet sends those of the pod's secrets; this command line sends none")
	rows := [][]string{{"ORDER", "HOST", "ASKED FOR", "AUTHORITIES", "CLIENT CERTIFICATE", "PROXY", "HEADERS"}}
	for i, h := range plan.Hosts {
		asked, cert := "digests", "no"
		if h.Resolve {
			asked = "tags and digests"
		}
		if h.ClientCertificate {
			cert = "yes"
		}
		rows = append(rows, []string{fmt.Sprint(i + 1), h.URL, asked, h.TLS, cert, h.Proxy, strings.Join(h.Headers, ",")})
	}
	return printTable(os.Stdout, rows)
}
