package identity

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// controller is a Signer over an Authority: what runs on node-1 is what the test says.
type controller struct {
	authority *Authority

	mu     sync.Mutex
	down   bool
	asked  []time.Time
	denied map[string]bool // by account
}

func (c *controller) Sign(_ context.Context, namespace, account string, csr []byte) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, time.Now())
	if c.down {
		return nil, errors.New("connection refused")
	}
	if c.denied[account] {
		return nil, ErrDenied
	}
	return c.authority.Sign(csr, namespace, account, "node-1", time.Now())
}

func (c *controller) set(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func (c *controller) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked)
}

// startKeeper runs a Keeper against an authority whose SVIDs live that long.
func startKeeper(t *testing.T, life time.Duration, log *slog.Logger) (*Keeper, *controller) {
	t.Helper()
	a := NewAuthority(AuthorityConfig{TrustDomain: testDomain, Life: life})
	root := newRoot(t, testDomain, time.Now())
	a.Update(Record(nil).Next(root.Roots(), time.Now(), time.Hour), root)
	c := &controller{authority: a, denied: map[string]bool{}}
	k := NewKeeper(KeeperConfig{Signer: c, Log: log})
	k.Trust(a.Bundle())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return k, c
}

func TestRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 10 * time.Second
		k, c := startKeeper(t, life, nil)
		web := account(t, testDomain, "shop", "web")
		k.Want(web)
		var last *SVID
		keys := map[any]bool{}
		for range 600 { // a minute
			svid, err := k.SVID(t.Context(), web)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(svid.NotAfter); left < life*44/100-time.Second {
				t.Fatalf("%v left", left)
			}
			if svid != last {
				last = svid
				keys[svid.Certificate.PrivateKey] = true
			}
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // simulated time
			synctest.Wait()
		}
		for i := range len(c.asked) - 1 {
			if d := c.asked[i+1].Sub(c.asked[i]); d < (life-time.Second)*45/100 || d > life*55/100+time.Millisecond {
				t.Errorf("renewed after %v", d)
			}
		}
		if n := len(c.asked); n < 11 || n > 15 || len(keys) != n {
			t.Errorf("%d requests, %d keys in a minute", n, len(keys))
		}
	})
}

func TestControllerAwayForLongerThanHalfALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		k, c := startKeeper(t, time.Hour, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})))
		web := account(t, testDomain, "shop", "web")
		k.Want(web)
		first, err := k.SVID(t.Context(), web)
		if err != nil {
			t.Fatal(err)
		}
		c.set(true)
		time.Sleep(50 * time.Minute) //nolint:forbidigo // simulated time
		synctest.Wait()
		if svid, err := k.SVID(t.Context(), web); err != nil || svid != first {
			t.Errorf("after 50 minutes without a controller: %v", err)
		}
		s := k.Status(time.Now())
		if s.Overdue != 1 || s.Held != 1 || !s.FirstEnd.Equal(first.NotAfter) || s.Failed == 0 || s.LastError == nil {
			t.Errorf("status %+v", s)
		}
		if !strings.Contains(log.String(), "SVID not renewed") {
			t.Errorf("no warning in %q", log.String())
		}
		if n := c.count(); n > 40 {
			t.Errorf("asked %d times", n)
		}

		time.Sleep(11 * time.Minute) //nolint:forbidigo // simulated time
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.SVID(ctx, web); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("after its end: %v", err)
		}
		if s := k.Status(time.Now()); s.Held != 0 {
			t.Errorf("status after the end %+v", s)
		}
		c.set(false)
		if _, err := k.SVID(t.Context(), web); err != nil {
			t.Errorf("the controller is back: %v", err)
		}
		if s := k.Status(time.Now()); s.Held != 1 || s.Overdue != 0 {
			t.Errorf("status after it came back %+v", s)
		}
	})
}

// What lasts seconds is asked for every second or so while it lasts: a minute would be its end.
func TestAsksMoreOftenTowardsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := startKeeper(t, 20*time.Second, nil)
		web := account(t, testDomain, "shop", "web")
		k.Want(web)
		if _, err := k.SVID(t.Context(), web); err != nil {
			t.Fatal(err)
		}
		c.set(true)
		time.Sleep(17 * time.Second) //nolint:forbidigo // simulated time
		c.set(false)
		time.Sleep(2 * time.Second) //nolint:forbidigo // simulated time
		synctest.Wait()
		if s := k.Status(time.Now()); s.Held != 1 || time.Until(s.FirstEnd) < 10*time.Second {
			t.Errorf("two seconds after the controller came back: %+v", s)
		}
	})
}

// Calls fail for want of a certificate, so one is asked for often, however long the controller was away. Who is denied asks
// less and less.
func TestAsksOftenForWhatIsMissing(t *testing.T) {
	for denied, most := range map[bool]time.Duration{false: 6 * time.Second, true: 70 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			k, c := startKeeper(t, time.Hour, nil)
			web := account(t, testDomain, "shop", "web")
			c.set(!denied)
			c.denied["web"] = denied
			k.Want(web)
			time.Sleep(10 * time.Minute) //nolint:forbidigo // simulated time
			synctest.Wait()
			asked := c.count()
			if often := asked > 60; often == denied {
				t.Errorf("denied %v: asked %d times in ten minutes", denied, asked)
			}
			c.mu.Lock()
			c.down, c.denied["web"] = false, false
			c.mu.Unlock()
			back := time.Now()
			if _, err := k.SVID(t.Context(), web); err != nil || time.Since(back) > most {
				t.Errorf("denied %v: after %v: %v", denied, time.Since(back), err)
			}
		})
	}
}

func TestOnlyWhatRunsHereHasAnSVID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, c := startKeeper(t, time.Hour, nil)
		web, admin := account(t, testDomain, "shop", "web"), account(t, testDomain, "shop", "admin")
		c.denied["admin"] = true
		k.Want(admin)
		for what, id := range map[string]ID{"denied": admin, "not known": web} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if svid, err := k.SVID(ctx, id); err == nil {
				t.Errorf("%s: got %v", what, svid.ID)
			} else if errors.Is(err, ErrDenied) != (id == admin) {
				t.Errorf("%s: %v", what, err)
			}
			cancel()
		}
		// A new pod's first call waits for the identity.
		got := make(chan error, 1)
		go func() {
			_, err := k.SVID(t.Context(), web)
			got <- err
		}()
		synctest.Wait()
		k.Want(web)
		if err := <-got; err != nil {
			t.Error(err)
		}
		// The pod leaves: its SVID is forgotten.
		k.Want()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.SVID(ctx, web); err == nil {
			t.Error("an identity that left has an SVID still")
		}
	})
}
