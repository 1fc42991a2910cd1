package update_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"yaoju/daemon/update"
)

// handled answers requests by a handler, without a network.
type handled struct{ h http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestHTTPSource(t *testing.T) {
	b := bytes.Repeat([]byte("0123456789"), 100)
	sum := sumOf(b)
	serve := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/releases/"+sum+".bundle" {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}
	cases := map[string]struct {
		serve http.HandlerFunc
		sum   string
		from  int64
		want  string // error; empty: the bytes come
	}{
		"from the beginning":     {serve, sum, 0, ""},
		"going on":               {serve, sum, 995, ""},
		"a server without range": {func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }, sum, 995, ""},
		"another range": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/1000")
			w.WriteHeader(http.StatusPartialContent)
		}, sum, 995, `got "bytes 0-9/1000"`},
		"a part where all was asked for": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) }, sum, 0, "206"},
		"not there":                      {serve, strings.Repeat("ab", 32), 0, "404"},
		"shorter than what is here":      {func(w http.ResponseWriter, _ *http.Request) { w.Write(b[:10]) }, sum, 995, "EOF"},
		"not a sum":                      {serve, "../../etc/passwd", 0, "not a sum"},
	}
	for name, c := range cases {
		src, err := update.NewHTTPSource(&http.Client{Transport: handled{c.serve}}, "https://district.example:8443/releases/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := src.Open(context.Background(), c.sum, c.from)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, b[c.from:]) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		body.Close()
	}
	for _, bad := range []string{"http://district.example/releases", "district.example", "https://", "https://district.example/?a=b", ":"} {
		if _, err := update.NewHTTPSource(http.DefaultClient, bad); err == nil {
			t.Errorf("took %q", bad)
		}
	}
}
