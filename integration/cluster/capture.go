package cluster

import (
	"errors"
	"fmt"
)

// Seen is what passed a Capture.
type Seen struct {
	Packets, Bytes int
	Lost           int            // packets that came faster than they were looked at
	Found          map[string]int // in how many packets each text was
}

// Capture looks at packets in a node's network namespace. Its goroutine ends with Stop.
type Capture struct {
	stop chan struct{}
	done chan struct{}
	seen Seen // written before done is closed
	err  error
}

// Capture looks for texts in all packets that a node ("n1") sends to other nodes and gets from them, which is what passes
// its cable. The packets themselves are not kept.
func (c *Cluster) Capture(place string, texts ...string) (*Capture, error) {
	return capture(c.netns(place), "eth0", texts)
}

// Stop ends the capture and returns what was seen.
func (c *Capture) Stop() (Seen, error) {
	close(c.stop)
	<-c.done
	return c.seen, c.err
}

func capture(netns, device string, texts []string) (*Capture, error) {
	s, err := openPackets(netns, device)
	if err != nil {
		return nil, fmt.Errorf("capture on %s of %s: %w", device, netns, err)
	}
	c := &Capture{stop: make(chan struct{}), done: make(chan struct{}), seen: Seen{Found: map[string]int{}}}
	go func() {
		defer close(c.done)
		c.err = errors.Join(c.look(s, texts), s.close())
	}()
	return c, nil
}
