package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// ClientConfig is what a Client needs. All but Store and StoreEvery is required.
type ClientConfig struct {
	Addr       string // host:port of the controller
	ServerName string // the DNS name that the controller's certificate must carry
	CAFile     string // PEM, read at each connect
	TokenFile  string // read at each connect
	Applier    Applier
	Store      *Store        // where the last good config is kept; nil = nowhere
	StoreEvery time.Duration // the least time between two writes to Store; 0 = 1 s
	Log        *slog.Logger
}

// Client keeps a proxy's config up to date. Run may be called once; the other methods by any goroutine.
type Client struct {
	config ClientConfig
	ready  chan struct{}
	synced chan struct{}
	status atomic.Pointer[Status]

	refused map[configv1.Key]configv1.Refusal // belongs to the goroutine that applies

	mu    sync.Mutex                         // guards state between the goroutine that applies and the one that stores
	state map[configv1.Key]configv1.Resource // what the Applier has in use
	dirty chan struct{}                      // capacity one: state changed
}

// Status is where a Client stands.
type Status struct {
	Connected bool
	// FromDisk is true while the config in use was read from the Store and no controller has confirmed it yet.
	FromDisk bool
	// Version is the controller's name of the config in use; "" = none yet.
	Version string
	Since   time.Time // when Version came into use
	// Refused is how many resources cannot be used; what each was before is in use instead.
	Refused int
}

// NewClient returns a Client; Run makes it work.
func NewClient(config ClientConfig) *Client {
	if config.StoreEvery == 0 {
		config.StoreEvery = time.Second
	}
	c := &Client{
		config: config, ready: make(chan struct{}), synced: make(chan struct{}),
		refused: map[configv1.Key]configv1.Refusal{},
		state:   map[configv1.Key]configv1.Resource{}, dirty: make(chan struct{}, 1),
	}
	c.status.Store(&Status{})
	return c
}

// Ready is closed once a full config is in use, be it from the controller or from the Store.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Synced is closed once a full config from the controller is in use: it has answered for every type.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Status returns where the client stands.
func (c *Client) Status() Status { return *c.status.Load() }

// Run applies the stored config, then what the controller sends, until ctx ends. Nothing that the controller does or
// doesn't do ends it.
func (c *Client) Run(ctx context.Context) error {
	c.restore()
	kept := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(kept)
		c.keep(stop)
	}()
	defer func() {
		close(stop)
		<-kept
	}()
	for backoff := minBackoff; ; {
		answered, err := c.connect(ctx)
		c.update(func(s *Status) { s.Connected = false })
		if ctx.Err() != nil {
			return nil
		}
		level := slog.LevelWarn
		if answered { // streams end from time to time, see ServerConfig.ReauthenticateAfter
			level, backoff = slog.LevelInfo, minBackoff
		}
		wait := time.Duration(float64(backoff) * (0.5 + rand.Float64()))
		c.config.Log.Log(ctx, level, "no config stream", "err", err, "retry", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// restore takes the stored config into use.
func (c *Client) restore() {
	if c.config.Store == nil {
		return
	}
	version, resources, err := c.config.Store.Load()
	if errors.Is(err, ErrNotStored) {
		return
	}
	if err != nil {
		c.config.Log.Warn("the stored config is not used", "err", err)
		return
	}
	c.apply(configv1.Update{Set: resources}, nil)
	c.update(func(s *Status) { s.FromDisk, s.Version, s.Since = true, version, time.Now() })
	close(c.ready)
	c.config.Log.Info("serving the stored config", "version", version, "resources", len(resources))
}

// apply hands an update to the Applier, remembers what is in use, and returns what is not, undecodable included.
func (c *Client) apply(u configv1.Update, undecodable []configv1.Refusal) []configv1.Refusal {
	refused := undecodable
	if len(u.Set)+len(u.Removed) > 0 || !closed(c.ready) {
		refused = append(refused, c.config.Applier.Apply(u)...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range u.Set {
		delete(c.refused, r.Key)
	}
	for _, key := range u.Removed {
		delete(c.refused, key)
		delete(c.state, key)
	}
	for _, r := range refused {
		c.refused[r.Key] = r
		c.config.Log.Warn("refused a resource",
			"kind", r.Type, "name", r.Name, "version", r.Version, "err", r.Reason)
		if c.state[r.Key].Version == r.Version {
			delete(c.state, r.Key) // was in use, no longer is
		}
	}
	for _, r := range u.Set {
		if _, ok := c.refused[r.Key]; !ok {
			c.state[r.Key] = r
		}
	}
	c.update(func(s *Status) { s.Refused = len(c.refused) })
	return refused
}

// versions returns what of a type is in use, by name.
func (c *Client) versions(typ string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	versions := map[string]string{}
	for key, r := range c.state {
		if key.Type == typ {
			versions[key.Name] = r.Version
		}
	}
	return versions
}

func (c *Client) update(change func(*Status)) {
	s := *c.status.Load()
	change(&s)
	c.status.Store(&s)
}

// keep writes the state to the Store as it changes, at most once a second and for no more than a fiftieth of the time,
// and once more at the end.
func (c *Client) keep(stop <-chan struct{}) {
	if c.config.Store == nil {
		<-stop
		return
	}
	for {
		select {
		case <-c.dirty:
			took := c.save()
			select {
			case <-time.After(max(c.config.StoreEvery, 50*took)):
			case <-stop:
			}
		case <-stop:
			select {
			case <-c.dirty:
				c.save()
			default:
			}
			return
		}
	}
}

func (c *Client) save() time.Duration {
	start := time.Now()
	c.mu.Lock()
	resources := make([]configv1.Resource, 0, len(c.state))
	for _, r := range c.state {
		resources = append(resources, r)
	}
	c.mu.Unlock()
	if err := c.config.Store.Save(c.Status().Version, resources); err != nil {
		c.config.Log.Warn("the config is not kept for a restart", "err", fmt.Errorf("store config: %w", err))
	}
	return time.Since(start)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
