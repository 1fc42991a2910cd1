package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

func TestPageAnswers(t *testing.T) {
	var mu sync.Mutex
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
	}))
	ask := pageAnswers(strings.TrimPrefix(s.URL, "http://"))
	if err := ask(t.Context()); err != nil {
		t.Error(err)
	}
	mu.Lock()
	status = http.StatusInternalServerError
	mu.Unlock()
	if err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a page that fails: %v", err)
	}
	s.Close()
	if err := ask(t.Context()); err == nil {
		t.Error("nobody listens, and no error")
	}
}
