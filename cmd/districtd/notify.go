package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"yaoju/daemon/pulse"
)

// pageAnswers asks for the console's first page, as a browser would: by way of the
// listener, the handler and the store.
func pageAnswers(address string) pulse.Question {
	return func(ctx context.Context) (err error) {
		defer func() {
			if err != nil {
				err = fmt.Errorf("console at %s: %w", address, err)
			}
		}()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", http.NoBody)
		if err != nil {
			return err
		}
		// No proxy that somebody set for the whole host, and no connection kept: the
		// listener has to accept one each time.
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		a, err := client.Do(r)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, a.Body)
		if err := errors.Join(err, a.Body.Close()); err != nil {
			return err
		}
		if a.StatusCode != http.StatusOK {
			return errors.New(a.Status)
		}
		return nil
	}
}
