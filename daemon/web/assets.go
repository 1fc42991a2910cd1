package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed assets/*.html assets/*.css assets/*.js assets/*.svg assets/*.woff2 assets/art assets/icon
var assetFiles embed.FS

// assets are the files of the page, each under a name that changes with its
// content, so that a browser may keep it for ever.
type assets struct {
	served map[string]asset  // by hashed name
	hashed map[string]string // hashed name by plain name
	art    map[string]template.HTML
	icon   map[string]template.HTML
}

const fontKind = "font/woff2"

type asset struct {
	kind   string
	plain  []byte
	packed []byte // gzip; nil for what is packed already
}

// loadAssets reads and packs the embedded files. They are part of the program,
// so what is wrong with them is a mistake in it.
func loadAssets() *assets {
	a := &assets{served: map[string]asset{}, hashed: map[string]string{}}
	a.add("regular.woff2", fontKind, read("regular.woff2"))
	a.add("bold.woff2", fontKind, read("bold.woff2"))
	a.add("mark.svg", "image/svg+xml", read("mark.svg"))
	style := string(read("kiosk.css")) + string(read("staff.css"))
	for _, font := range []string{"regular.woff2", "bold.woff2"} {
		style = strings.ReplaceAll(style, font, a.hashed[font])
	}
	a.add("kiosk.css", "text/css; charset=utf-8", []byte(style))
	a.add("kiosk.js", "text/javascript; charset=utf-8", read("kiosk.js"))
	a.art, a.icon = drawings("art"), drawings("icon")
	return a
}

func read(name string) []byte {
	b, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		panic(err)
	}
	return b
}

// drawings reads the SVG files of a folder: they are put into the page, where
// its colours reach them.
func drawings(folder string) map[string]template.HTML {
	found := map[string]template.HTML{}
	list, err := fs.ReadDir(assetFiles, "assets/"+folder)
	if err != nil {
		panic(err)
	}
	for _, f := range list {
		name := strings.TrimSuffix(f.Name(), ".svg")
		found[name] = template.HTML(bytes.TrimSpace(read(path.Join(folder, f.Name()))))
	}
	return found
}

func (a *assets) add(name, kind string, b []byte) {
	sum := sha256.Sum256(b)
	ext := path.Ext(name)
	hashed := strings.TrimSuffix(name, ext) + "-" + hex.EncodeToString(sum[:6]) + ext
	f := asset{kind: kind, plain: b}
	if kind != fontKind { // a font is packed already
		f.packed = pack(b)
	}
	a.served[hashed], a.hashed[name] = f, hashed
}

func pack(b []byte) []byte {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	// Writing to memory does not fail.
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

// url is where the page finds a file.
func (a *assets) url(name string) string {
	hashed, ok := a.hashed[name]
	if !ok {
		panic(fmt.Sprintf("web: no asset %q", name))
	}
	return "/assets/" + hashed
}

// ServeHTTP sends a file by its hashed name.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := a.served[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	b := f.plain
	if f.packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		b = f.packed
	}
	// An error means that the browser went away.
	_, _ = w.Write(b)
}
