package tunnel

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/queue"
)

// put keeps a free link for its next use, unless its caller has left the node.
func (c *Client) put(k key, addr netip.AddrPort, l *link) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.config.Source.SVID(now, k.caller); err != nil {
		l.close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle[k]) >= c.config.MaxIdle || !time.Now().Before(l.fresh) {
		l.close()
		return
	}
	i := &idle{link: l, addr: addr}
	i.timer = time.AfterFunc(min(c.config.IdleTimeout, time.Until(l.fresh)), func() {
		if c.drop(k, i) {
			l.close()
		}
	})
	c.idle[k] = append(c.idle[k], i)
	if q := c.queues[k]; q != nil {
		q.Freed()
	}
}

// drop forgets an idle link. It returns false if it isn't idle any more.
func (c *Client) drop(k key, i *idle) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := slices.Index(c.idle[k], i)
	if at < 0 {
		return false
	}
	c.idle[k] = slices.Delete(c.idle[k], at, at+1)
	if len(c.idle[k]) == 0 {
		delete(c.idle, k)
	}
	return true
}

// take returns an idle link to one of the addresses, the one used last; nil if there is none.
func (c *Client) take(k key, addrs []netip.AddrPort) *idle {
	for {
		c.mu.Lock()
		list := c.idle[k]
		if len(list) == 0 {
			c.mu.Unlock()
			return nil
		}
		i := list[len(list)-1]
		c.idle[k] = list[:len(list)-1]
		if len(list) == 1 {
			delete(c.idle, k)
		}
		c.mu.Unlock()
		i.timer.Stop()
		if slices.Contains(addrs, i.addr) && time.Now().Before(i.link.fresh) {
			return i
		}
		i.link.close() // the proxy there is another one by now
	}
}

// line is the queue of those who need a link.
type line struct {
	queue.Queue
	users int // in the queue, or making a link; guarded by the Client's mutex
}

// takeOrMake returns an idle link, or nil if the caller is to make one and to call made then, at least once.
func (c *Client) takeOrMake(ctx context.Context, k key, addrs []netip.AddrPort) (i *idle, made func()) {
	if i = c.take(k, addrs); i != nil {
		return i, nil
	}
	q := c.queue(k)
	if q.Enter(ctx, func() bool { i = c.take(k, addrs); return i != nil }) {
		c.unqueue(k, q)
		return i, nil
	}
	return nil, sync.OnceFunc(func() {
		q.Done()
		c.unqueue(k, q)
	})
}

func (c *Client) queue(k key) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[k]
	if q == nil {
		q = &line{}
		c.queues[k] = q
	}
	q.users++
	return q
}

func (c *Client) unqueue(k key, q *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(c.queues, k)
	}
}

// warm makes a link ahead of the next call, if none is left: whoever calls once tends to call again.
func (c *Client) warm(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.warming[k] || len(c.idle[k]) > 0 {
		return
	}
	c.warming[k] = true
	go func() {
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.warming, k)
		}()
		if err := c.ahead(k); err != nil {
			c.config.Log.Debug("no tunnel made ahead", "node", k.node, "err", err)
		}
	}()
}

// Probe tries to make a link for the next call, and says in a goroutine of its own whether there is one.
func (c *Client) Probe(caller identity.ID, node string, done func(ok bool)) {
	go func() { done(c.ahead(key{caller, node}) == nil) }()
}

// ahead makes a link and keeps it.
func (c *Client) ahead(k key) error {
	addrs := c.config.Proxies(k.node)
	if len(addrs) == 0 {
		return ErrNoProxy
	}
	l, err := c.connect(context.Background(), k, addrs[0])
	if err != nil {
		return err
	}
	c.put(k, addrs[0], l)
	return nil
}

// CloseIdle closes what waits for its next use on behalf of callers: those that left the node, or all when roots are not
// trusted any more.
func (c *Client) CloseIdle(gone func(identity.ID) bool) {
	var closing []*idle
	c.mu.Lock()
	for k, list := range c.idle {
		if gone(k.caller) {
			closing = append(closing, list...)
			delete(c.idle, k)
		}
	}
	c.mu.Unlock()
	for _, i := range closing {
		i.timer.Stop()
		i.link.close()
	}
}

// Close closes what waits for its next use, and keeps nothing from then on. Connections that are in use go on.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.CloseIdle(func(identity.ID) bool { return true })
}
