package report

import "time"

// Call is one of those that the test tool's command calls makes.
type Call struct {
	Kind    string   `json:"kind"`   // http, h2c, grpc, tcp or udp
	Target  string   `json:"target"` // a URL, or host:port
	Method  string   `json:"method,omitempty"`
	Headers []string `json:"headers,omitempty"` // "Name: value"
}

// Outcome is what became of a Call.
type Outcome struct {
	Status  int               `json:"status,omitempty"`  // of HTTP
	Headers map[string]string `json:"headers,omitempty"` // of the response
	Answer  *Answer           `json:"answer,omitempty"`  // whatever came, if something did
	Error   string            `json:"error,omitempty"`
	MS      float64           `json:"ms"`
}

// Held is a line that the test tool's command hold prints: one when it has an answer, one when it gets none any more.
type Held struct {
	Open  bool      `json:"open"`
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"` // what ended it
}
