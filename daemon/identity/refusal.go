package identity

import "fmt"

// Code is why the district gave no certificate, as it travels.
type Code string

const (
	CodeToken   Code = "token"   // unknown, mistyped, too old, used, or for another machine: never which
	CodeRevoked Code = "revoked" // this key was taken from the machine
	CodeConsent Code = "consent" // the certificate ran out, or the district does not know the key: an officer decides
	CodeCurrent Code = "current" // nothing to renew yet: no failure
	CodeRequest Code = "request" // the request itself is not sound
	CodeBusy    Code = "busy"    // too many requests from one place
	CodeFailed  Code = "failed"  // the district's own fault; its log says what
)

// Refusal is the district's no, with what a person can do about it.
type Refusal struct {
	Code    Code   `json:"code"`
	Machine string `json:"machine,omitempty"` // whose certificate was shown; empty where none was
	reason  error  // for the district's log alone
}

// Refuse is how a Registry says no; reason is for the district's log alone.
func Refuse(code Code, reason error) *Refusal { return &Refusal{Code: code, reason: reason} }

func (r *Refusal) Error() string {
	m := r.Machine
	if m == "" {
		m = "MACHINE"
	}
	switch r.Code {
	case CodeToken:
		return fmt.Sprintf("the district does not take this enrolment line: it was used for another key, or is older than 24 hours, or a newer one was made: make one there with 'districtd enrol %s'", m)
	case CodeRevoked:
		return fmt.Sprintf("the district has revoked this machine's key: if that was not meant, make a line there with 'districtd enrol %s' and use it here with 'yaoju enrol -new-key'", m)
	case CodeConsent:
		return fmt.Sprintf("this machine's certificate ran out or the district does not know it: an officer lets it back with 'districtd consent %s'; the machine then comes by itself within 20 minutes", m)
	case CodeCurrent:
		return "the certificate is good for a long while yet"
	case CodeRequest:
		return "the district did not understand the request: are both programs of the same version?"
	case CodeBusy:
		return "the district has had too many requests from this address: try again in a few minutes"
	}
	return "the district could not answer: look into the log of districtd, then try again"
}

// Unwrap is the reason, which stays in the district.
func (r *Refusal) Unwrap() error { return r.reason }

// known says whether a code is one of ours; a newer district may have others.
func (c Code) known() bool {
	switch c {
	case CodeToken, CodeRevoked, CodeConsent, CodeCurrent, CodeRequest, CodeBusy, CodeFailed:
		return true
	}
	return false
}
