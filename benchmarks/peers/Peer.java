// Kafka Streams, as its documentation writes it: final results by suppress. java -cp 'jars/*' Peer.java
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.processor.TimestampExtractor;

public class Peer {
    static final ObjectMapper JSON = new ObjectMapper();

    record Reading(long ts, double value) {}

    record Stats(long count, double sum, double min, double max) {
        Stats with(double v) { return new Stats(count + 1, sum + v, Math.min(min, v), Math.max(max, v)); }
    }

    public static class EventTime implements TimestampExtractor {
        static boolean first = true;
        public long extract(ConsumerRecord<Object, Object> record, long before) {
            if (first) { first = false; System.out.println("first"); }
            return ((Reading) record.value()).ts();
        }
    }

    static Serde<Reading> readings() {
        return Serdes.serdeFrom(
            (topic, r) -> { throw new IllegalStateException(); },
            (topic, bytes) -> {
                try {
                    JsonNode node = JSON.readTree(bytes);
                    return new Reading(node.get("ts").asLong(), node.get("value").asDouble());
                } catch (java.io.IOException e) { throw new java.io.UncheckedIOException(e); }
            });
    }

    static Serde<Stats> stats() {
        return Serdes.serdeFrom(
            (topic, s) -> s == null ? null
                : ByteBuffer.allocate(32).putLong(s.count).putDouble(s.sum).putDouble(s.min).putDouble(s.max).array(),
            (topic, bytes) -> {
                if (bytes == null) return null;
                ByteBuffer b = ByteBuffer.wrap(bytes);
                return new Stats(b.getLong(), b.getDouble(), b.getDouble(), b.getDouble());
            });
    }

    public static void main(String[] args) {
        Map<String, String> env = System.getenv();
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, env.get("NAME"));
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env.get("BROKERS"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, env.get("FOLDER"));
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, env.get("GUARANTEE"));
        p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, "1");
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, "100"); // the default of exactly once; at 30 s results would wait
        p.put("auto.offset.reset", "earliest");
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(env.get("TOPIC"), Consumed.with(Serdes.String(), readings()).withTimestampExtractor(new EventTime()))
            .groupByKey(Grouped.with(Serdes.String(), readings()))
            .windowedBy(TimeWindows.ofSizeWithNoGrace(Duration.ofMillis(Long.parseLong(env.getOrDefault("WINDOW_MS", "10000")))))
            .aggregate(() -> new Stats(0, 0, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY), (k, r, s) -> s.with(r.value()),
                Materialized.with(Serdes.String(), stats()))
            .suppress(Suppressed.untilWindowCloses(Suppressed.BufferConfig.unbounded()))
            .toStream()
            .map((w, s) -> KeyValue.pair(w.key(), String.format(java.util.Locale.ROOT,
                "{\"sensor\": \"%s\", \"start\": %d, \"count\": %d, \"mean\": %.17g, \"min\": %.17g, \"max\": %.17g}",
                w.key(), w.window().start(), s.count(), s.sum() / s.count(), s.min(), s.max())))
            .to(env.get("OUT"), Produced.with(Serdes.String(), Serdes.String()));
        KafkaStreams streams = new KafkaStreams(builder.build(), p);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(5))));
        streams.start();
    }
}
