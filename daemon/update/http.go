package update

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"yaoju/protocol"
)

// HTTPSource fetches bundles from a folder of a web server: the district's, over
// the TLS its client was made for. A bundle is named by its sum, SHA256.bundle.
type HTTPSource struct {
	client *http.Client
	base   string
}

// NewHTTPSource returns the source at an https address. The client must have no
// limit on the whole answer: a bundle takes its time, and Fetch has limits of its own.
func NewHTTPSource(client *http.Client, base string) (*HTTPSource, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("updates from %q: want an address such as https://district.example:8443/releases", clip(base))
	}
	return &HTTPSource{client: client, base: strings.TrimSuffix(base, "/")}, nil
}

// Open asks for the bundle from the offset on.
func (h *HTTPSource) Open(ctx context.Context, sha256 string, from int64) (io.ReadCloser, error) {
	if !protocol.ValidSum(sha256) {
		return nil, fmt.Errorf("bundle %q: not a sum", clip(sha256))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/"+sha256+".bundle", nil)
	if err != nil {
		return nil, err
	}
	// Compressed on the way, the offsets would be of something else.
	req.Header.Set("Accept-Encoding", "identity")
	want := http.StatusOK
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		want = http.StatusPartialContent
	}
	res, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := h.answers(res, want, from); err != nil {
		res.Body.Close() // what it says is of no interest
		return nil, fmt.Errorf("bundle %.8s: %w", sha256, err)
	}
	return res.Body, nil
}

// answers says whether an answer is the part that was asked for.
func (h *HTTPSource) answers(res *http.Response, want int, from int64) error {
	if res.StatusCode == http.StatusOK && want == http.StatusPartialContent {
		// A server without ranges sends all of it: what is here already is skipped.
		_, err := io.CopyN(io.Discard, res.Body, from)
		return err
	}
	if res.StatusCode != want {
		return fmt.Errorf("the district answers %s", clip(res.Status))
	}
	if want == http.StatusPartialContent && !strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
		return fmt.Errorf("asked from byte %d on, and got %q", from, clip(res.Header.Get("Content-Range")))
	}
	return nil
}
