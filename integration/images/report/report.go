// Package report is what the test tool answers and prints, as JSON, so that tests can read it.
package report

import "time"

// Answer is what the tool's servers say about themselves and the request.
type Answer struct {
	Pod     string              `json:"pod"`
	Node    string              `json:"node,omitempty"`
	Version string              `json:"version,omitempty"`
	Listen  string              `json:"listen,omitempty"` // address and port that the request came to
	Remote  string              `json:"remote,omitempty"` // whom the server sees as the caller
	Proto   string              `json:"proto,omitempty"`
	Method  string              `json:"method,omitempty"`
	Host    string              `json:"host,omitempty"`
	URI     string              `json:"uri,omitempty"` // path and query as they came
	Headers map[string][]string `json:"headers,omitempty"`
	Body    string              `json:"body,omitempty"` // of the request
}

// Summary counts the outcomes of many calls.
type Summary struct {
	Calls     int            `json:"calls"`
	OK        int            `json:"ok"`     // an answer came, whatever its status, and it was below 500
	Failed    int            `json:"failed"` // the others
	ByPod     map[string]int `json:"byPod,omitempty"`
	ByNode    map[string]int `json:"byNode,omitempty"`
	ByVersion map[string]int `json:"byVersion,omitempty"`
	ByStatus  map[int]int    `json:"byStatus,omitempty"`
	Errors    map[string]int `json:"errors,omitempty"`
	MaxMS     float64        `json:"maxMs"`
	P50MS     float64        `json:"p50Ms"`
	P99MS     float64        `json:"p99Ms"`
	GapMS     float64        `json:"gapMs"`   // the longest time without an OK
	Seconds   float64        `json:"seconds"` // from the first call to the end
	// Turns are the moments at which another version answered than the one before, the first answer among them.
	Turns       []Turn            `json:"turns,omitempty"`
	Failures    []Failure         `json:"failures,omitempty"` // the first hundred
	LastFailure time.Time         `json:"lastFailure,omitzero"`
	Last        *Answer           `json:"last,omitempty"`
	LastReply   map[string]string `json:"lastReply,omitempty"` // headers of the last response
}

// Turn is an answer of another version than the one before.
type Turn struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
}

// Failure is one call that went wrong.
type Failure struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
	MS    float64   `json:"ms"`
}

// Lookup is the answer to one DNS question.
type Lookup struct {
	Name          string   `json:"name"`
	Type          string   `json:"type"`
	RCode         string   `json:"rcode,omitempty"` // success, name-error (NXDOMAIN), server-failure, refused, ...
	Answers       []string `json:"answers,omitempty"`
	TTL           uint32   `json:"ttl"`                  // the smallest of the answers'
	SOAMinimum    *uint32  `json:"soaMinimum,omitempty"` // of the authority section
	Authoritative bool     `json:"authoritative"`
	Error         string   `json:"error,omitempty"`
	MS            float64  `json:"ms"`
}
