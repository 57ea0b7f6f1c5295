package sample

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTaskPostsItsResultWhenItIsDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		stop := b.run(t)
		defer stop()
		began := time.Now()
		const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		res := b.do("POST", `{"message":"<done> \"ä\"","wait":20}`,
			map[string]string{"Authorization": "Bearer ada-token", "Content-Type": "application/json", "Traceparent": trace})
		if res.Code != 202 {
			t.Fatalf("answer %d: %s", res.Code, res.Body)
		}
		var got struct {
			TaskID, UserID string
			Wait           float64
			Due            time.Time
		}
		if err := json.Unmarshal(res.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.UserID != "ada-id" || got.TaskID == "" || got.Wait != 20 || got.Due.Sub(began) != 20*time.Second {
			t.Errorf("answer %s", res.Body)
		}
		time.Sleep(19999 * time.Millisecond)
		synctest.Wait()
		if n := len(b.gateway.all()); n != 0 {
			t.Fatalf("%d results were posted before the task was due", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		posts := b.gateway.all()
		if len(posts) != 1 {
			t.Fatalf("%d posts when the task is due, want 1", len(posts))
		}
		if want := `{"userId":"ada-id","message":"<done> \"ä\"","type":"sample.result"}`; posts[0].body != want {
			t.Errorf("posted %s\nwant   %s", posts[0].body, want)
		}
		for name, want := range map[string]string{
			"Authorization": "Bearer rk_test_secret", "Idempotency-Key": got.TaskID,
			"Content-Type": "application/json", "Traceparent": trace,
		} {
			if h := posts[0].header.Get(name); h != want {
				t.Errorf("header %s is %q, want %q", name, h, want)
			}
		}
		if n := len(b.log.lines(t, "task in progress")); n < 8 || n > 10 {
			t.Errorf("%d lines of progress for 20 s, want about 9", n)
		}
		if strings.Contains(b.log.text(), "rk_test") || strings.Contains(b.log.text(), "ada-token") || strings.Contains(b.log.text(), "<done>") {
			t.Error("the log contains a secret or the message")
		}
	})
}

func TestPostIsRepeatedUntilTheGatewayTakesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.gateway.script = append(b.gateway.script,
			fails(errors.New("connection refused")), answer(503, "7", ""), answer(429, "60", ""), hangs, answer(500, "", "oops"),
			answer(200, "", "<html>a captive portal</html>"))
		stop := b.run(t)
		defer stop()
		b.process(`{"message":"x","wait":0}`)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		posts := b.gateway.all()
		if len(posts) != 7 {
			t.Fatalf("%d attempts, want 7", len(posts))
		}
		for _, p := range posts[1:] {
			if p.header.Get("Idempotency-Key") != posts[0].header.Get("Idempotency-Key") || p.body != posts[0].body {
				t.Error("an attempt differs from the first one")
			}
		}
		if d := posts[2].at.Sub(posts[1].at); d < 7*time.Second {
			t.Errorf("came back %s after Retry-After: 7", d)
		}
		if d := posts[3].at.Sub(posts[2].at); d < time.Minute {
			t.Errorf("came back %s after Retry-After: 60", d)
		}
		if d := posts[4].at.Sub(posts[3].at); d < attemptTimeout || d > attemptTimeout+longestBackoff {
			t.Errorf("a hanging attempt took %s", d)
		}
		if n := len(b.log.lines(t, "task done, the gateway has the result")); n != 1 {
			t.Errorf("%d lines say that the task is done", n)
		}
	})
}

func TestPostGivesUp(t *testing.T) {
	t.Parallel()
	t.Run("when the gateway refuses for good", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, nil)
			b.gateway.script = append(b.gateway.script, answer(403, "", `{"title":"Forbidden","detail":"The key lacks the scope publish."}`))
			stop := b.run(t)
			defer stop()
			b.process(`{"message":"x","wait":0}`)
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := len(b.gateway.all()); n != 1 {
				t.Errorf("%d attempts, want 1", n)
			}
			lost := b.log.lines(t, "task lost")
			if len(lost) != 1 || !strings.Contains(lost[0]["err"].(string), "lacks the scope") || lost[0]["user_id"] != "ada-id" {
				t.Errorf("log says %v", lost)
			}
		})
	})
	t.Run("after the limit", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(c *Config) { c.GiveUpAfter = 2 * time.Minute })
			for range 1000 {
				b.gateway.script = append(b.gateway.script, answer(503, "", ""))
			}
			stop := b.run(t)
			defer stop()
			began := time.Now()
			b.process(`{"message":"x","wait":0}`)
			time.Sleep(time.Hour)
			synctest.Wait()
			posts := b.gateway.all()
			if last := posts[len(posts)-1].at.Sub(began); last > 2*time.Minute || last < time.Minute || len(posts) > 80 {
				t.Errorf("%d attempts, the last after %s", len(posts), last)
			}
			if n := len(b.log.lines(t, "task lost")); n != 1 {
				t.Errorf("%d lines say that the task is lost", n)
			}
		})
	})
}

func TestTooManyTasksAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.MaxTasks = 2 })
		stop := b.run(t)
		defer stop()
		for range 2 {
			if res := b.process(`{"message":"x","wait":5}`); res.Code != 202 {
				t.Fatalf("answer %d", res.Code)
			}
		}
		res := b.process(`{"message":"x","wait":5}`)
		if res.Code != 503 || res.Header().Get("Retry-After") == "" {
			t.Errorf("third task: %d, Retry-After %q", res.Code, res.Header().Get("Retry-After"))
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if res := b.process(`{"message":"x","wait":5}`); res.Code != 202 {
			t.Errorf("a task after the others have ended: %d", res.Code)
		}
	})
}

// On stop, each task either finishes or is reported, exactly once.
func TestStopFinishesWhatIsDueAndReportsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Grace = 10 * time.Second })
		// For "stuck" at 1 s, "soon" at 8 s, and "stuck" again at 11 s.
		b.gateway.script = append(b.gateway.script, hangs, answer(202, "", `{"seq":1}`), answer(503, "300", ""))
		stop := b.run(t)
		b.process(`{"message":"soon","wait":8}`)
		b.process(`{"message":"late","wait":600}`)
		b.process(`{"message":"stuck","wait":1}`)
		time.Sleep(2 * time.Second)
		began := time.Now()
		stop()
		if d := time.Since(began); d > 11*time.Second {
			t.Errorf("stopping took %s with a grace period of 10 s", d)
		}
		if n := len(b.log.lines(t, "task lost")); n != 2 {
			t.Errorf("%d tasks reported as lost, want 2:\n%s", n, b.log.text())
		}
		if done := b.log.lines(t, "task done, the gateway has the result"); len(done) != 1 || done[0]["attempts"] != 1.0 {
			t.Errorf("tasks done: %v, want the one that was due after 8 s", done)
		}
		if posts := b.gateway.all(); len(posts) != 3 || !strings.Contains(posts[1].body, "soon") {
			t.Errorf("%d posts", len(posts))
		}
		if res := b.process(`{"message":"x","wait":0}`); res.Code != 503 || res.Header().Get("Retry-After") == "" {
			t.Errorf("a task after stop: %d", res.Code)
		}
		if err := b.app.Run(t.Context()); err == nil {
			t.Error("Run can be called twice")
		}
	})
}

// What cannot be done in time is not waited for.
func TestStopDoesNotWaitForTasksThatAreDueTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		stop := b.run(t)
		b.process(`{"message":"late","wait":600}`)
		synctest.Wait()
		began := time.Now()
		stop()
		if d := time.Since(began); d != 0 {
			t.Errorf("stopping took %s", d)
		}
		if n := len(b.log.lines(t, "task lost")); n != 1 {
			t.Errorf("%d tasks reported as lost, want 1", n)
		}
	})
}

func TestStopWithoutGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.Grace = -1 })
		b.gateway.script = append(b.gateway.script, hangs)
		stop := b.run(t)
		b.process(`{"message":"posting","wait":0}`)
		b.process(`{"message":"waiting","wait":5}`)
		synctest.Wait()
		began := time.Now()
		stop()
		if d := time.Since(began); d != 0 {
			t.Errorf("stopping took %s", d)
		}
		if n := len(b.log.lines(t, "task lost")); n != 2 {
			t.Errorf("%d tasks reported as lost, want 2:\n%s", n, b.log.text())
		}
	})
}

func TestRetryAfterForms(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "12": 12 * time.Second, "-3": 0, "soon": 0, "99999999": longestRetry,
		now.Add(time.Minute).Format("Mon, 02 Jan 2006 15:04:05 GMT"): time.Minute,
		now.Add(-time.Hour).Format("Mon, 02 Jan 2006 15:04:05 GMT"):  0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", value, got, want)
		}
	}
}
