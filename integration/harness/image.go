package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageConfig is that of every image but pause's: nothing a test would have to undo.
var ImageConfig = ocispec.ImageConfig{
	Env: []string{"PATH=/bin:/usr/bin", "FLAVOUR=base"},
	Cmd: []string{"/bin/testbox", "echo", "hello"},
}

// ImportImage makes an image of one layer from the trees and unpacks it; each
// further tree is a further layer.
func ImportImage(ctx context.Context, c *client.Client, name string, layers ...Tree) (client.Image, error) {
	return importImage(ctx, c, name, ImageConfig, layers...)
}

func importImage(ctx context.Context, c *client.Client, name string, config ocispec.ImageConfig, layers ...Tree) (client.Image, error) {
	layout, err := Layout(name, config, layers...)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	if _, err := c.Import(ctx, layout, client.WithIndexName("")); err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	image, err := c.GetImage(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", name, err)
	}
	for _, snapshotter := range []string{"overlayfs", "native"} {
		if err := image.Unpack(ctx, snapshotter); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
	}
	return image, nil
}

// Layout is an OCI image layout in a tar stream, as ImportImage, nerdctl and
// docker load it.
func Layout(name string, config ocispec.ImageConfig, layers ...Tree) (*bytes.Buffer, error) {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	put := func(path string, data []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	blob := func(mediaType string, data []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		return d, put("blobs/sha256/"+d.Digest.Encoded(), data)
	}
	blobJSON := func(mediaType string, v any) (ocispec.Descriptor, error) {
		data, err := json.Marshal(v)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		return blob(mediaType, data)
	}

	image := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: config}
	image.RootFS.Type = "layers"
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, tree := range layers {
		var layer bytes.Buffer
		if err := tree.Tar(&layer); err != nil {
			return nil, err
		}
		d, err := blob(ocispec.MediaTypeImageLayer, layer.Bytes())
		if err != nil {
			return nil, err
		}
		manifest.Layers = append(manifest.Layers, d)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, d.Digest)
	}
	var err error
	if manifest.Config, err = blobJSON(ocispec.MediaTypeImageConfig, image); err != nil {
		return nil, err
	}
	d, err := blobJSON(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return nil, err
	}
	d.Annotations = map[string]string{images.AnnotationImageName: name}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		return nil, err
	}
	if err := put("index.json", index); err != nil {
		return nil, err
	}
	if err := put(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`)); err != nil {
		return nil, err
	}
	return &out, tw.Close()
}
